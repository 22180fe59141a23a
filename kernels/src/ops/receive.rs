//! Rows that one device has computed, brought to where the next one goes on with them.

use candle_core::{CpuStorage, Storage, Tensor};

use crate::{Compute, Error, Result, rows};

impl Compute {
    /// Copies the rows of `from`, on the CPU, over the first rows of `to`, on this handle's card. Both: f32
    /// `(num_tokens, columns)`.
    ///
    /// # Errors
    /// When shapes or places are others, or the card has failed.
    pub fn receive(&self, from: &Tensor, to: &Tensor) -> Result<()> {
        const OP: &str = "receive";
        let (num_tokens, columns) = rows::matrix(OP, "from", from)?;
        let (room, width) = rows::matrix(OP, "to", to)?;
        let Some(gpu) = self.gpu().filter(|_| columns == width && num_tokens <= room) else {
            return Err(Error::shape(OP, format!("({num_tokens}, {columns}) to ({room}, {width}) of this device")));
        };
        let (storage, layout) = from.storage_and_layout();
        let Storage::Cpu(storage @ CpuStorage::F32(_)) = &*storage else {
            return Err(Error::shape(OP, "the rows are not on the CPU"));
        };
        let values = rows::f32s(storage, layout)?;
        // SAFETY: any f32 is four bytes.
        let bytes = unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) };
        // SAFETY: there is room, as checked.
        unsafe { gpu.upload(bytes, gpu.address(to)?) }
    }
}

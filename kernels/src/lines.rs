//! Memory in whole cache lines, so that vectors in it are aligned. Knows nothing of what lies in it.

/// 64 aligned bytes.
#[derive(Debug, Clone, Copy)]
#[repr(C, align(64))]
pub(crate) struct Line([u8; 64]);

impl Line {
    pub(crate) const ZERO: Self = Self([0; 64]);
    /// f32 values in a line.
    pub(crate) const F32S: usize = size_of::<Self>() / size_of::<f32>();
}

/// The lines as numbers to be written.
pub(crate) fn f32s_mut(lines: &mut [Line]) -> &mut [f32] {
    // SAFETY: lines are plain bytes without gaps; any bytes are a number, and lines are aligned to more than one.
    unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), lines.len() * Line::F32S) }
}

//! Turns a model of float weights into a quantised GGUF file, streaming: a few megabytes of values at a time, whatever
//! the size of the model.

use std::path::Path;
use std::thread;

use kernels::{GgmlType, dequantise};

use crate::ggml_blocks::quantize as to_blocks;
use crate::gguf::writer::{GgufHeader, MetadataValue};
use crate::partial::PartialFile;
use crate::rotary_rows::{are_rotated, halved_row};
use crate::tokenizer_json::read_tokenizer_json;
use crate::{Error, GgufVocabulary, ModelConfig, ModelFile, Recipe, Result, TensorView, TokenizerSource};

/// Values converted at a time by each thread.
const CHUNK: usize = 1 << 20;

/// Writes `source`, a safetensors directory or a GGUF file of F32, F16 or BF16 weights, as GGUF with the types of
/// `recipe`, and returns the size in bytes. `progress` hears the share done, 0 to 1. The file appears under its name
/// only once it is complete.
///
/// # Errors
/// When the source cannot be read, is quantised already or holds values that are not finite, its tokenizer has no name
/// in GGUF, or writing fails.
pub fn quantize(source: &ModelFile, recipe: Recipe, output: &Path, progress: &mut dyn FnMut(f32)) -> Result<u64> {
    let io = |source| Error::Io { path: output.to_owned(), source };
    let config = source.config()?;
    let tensors = plan(source, recipe, &config)?;
    let mut header = header(source, recipe, &config)?;
    for tensor in &tensors {
        header.tensor(&tensor.name, tensor.ggml_type, &tensor.view.shape);
    }
    let factors = header.rope_factors(&config);
    let (mut done, total) = (0, tensors.iter().map(|tensor| tensor.view.bytes.len()).sum::<usize>());
    let mut file = PartialFile::create(output)?;
    let mut data = header.write(&mut file).map_err(io)?;
    for tensor in &tensors {
        let rows = tensor.view.shape[0];
        let step = (CHUNK / tensor.columns).max(1) * threads();
        for first in (0..rows).step_by(step) {
            let last = rows.min(first + step);
            for bytes in &tensor.convert(source, first..last)? {
                data.write(bytes).map_err(io)?;
            }
            let read = &tensor.view.bytes[first * tensor.row_bytes()..last * tensor.row_bytes()];
            source.release(read);
            done += read.len();
            progress(done as f32 / total as f32);
        }
    }
    if let Some(factors) = factors {
        data.write(&factors).map_err(io)?;
    }
    data.finish().map_err(io)?;
    file.finish()
}

fn threads() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

/// One weight on its way.
struct Conversion<'a> {
    /// GGUF's name.
    name: String,
    view: TensorView<'a>,
    ggml_type: GgmlType,
    /// Elements of a row; a vector is a column of rows of one.
    columns: usize,
    /// Heads of this size have their rows interleaved on the way.
    interleave: Option<usize>,
}

/// What becomes of every weight that the model needs.
fn plan<'a>(source: &'a ModelFile, recipe: Recipe, config: &ModelConfig) -> Result<Vec<Conversion<'a>>> {
    let reorders = config.rope_style != config.architecture.gguf_rope_style();
    let conversion = |(name, shape): (String, Vec<usize>)| {
        let view = source.tensor(&name)?;
        let refused = |message: String| Err(Error::invalid(source.path(), format!("tensor {name}: {message}")));
        if view.shape != shape {
            return refused(format!("its shape is {:?}, the model needs {shape:?}", view.shape));
        }
        if view.ggml_type.block_len() > 1 {
            let message = format!("it is quantised already ({}); take the original weights", view.ggml_type.name());
            return refused(message);
        }
        let columns = shape.get(1).copied().unwrap_or(1);
        let ggml_type = if shape.len() == 1 { GgmlType::F32 } else { recipe.type_of(&name, columns, config) };
        let interleave = (reorders && are_rotated(&name)).then_some(config.head_dim);
        Ok(Conversion { name, view, ggml_type, columns, interleave })
    };
    config.weights().map(conversion).collect()
}

impl Conversion<'_> {
    fn row_bytes(&self) -> usize {
        self.columns * self.view.ggml_type.block_bytes()
    }

    /// The blocks of some rows, one part for each thread.
    fn convert(&self, source: &ModelFile, rows: std::ops::Range<usize>) -> Result<Vec<Vec<u8>>> {
        let share = rows.len().div_ceil(threads());
        thread::scope(|scope| {
            let part =
                |first: usize| scope.spawn(move || self.convert_part(source, first..rows.end.min(first + share)));
            let workers: Vec<_> = rows.clone().step_by(share).map(part).collect();
            let finished = workers.into_iter().map(|worker| {
                worker.join().unwrap_or_else(|_| Err(Error::invalid(source.path(), "a converting thread failed")))
            });
            finished.collect()
        })
    }

    fn convert_part(&self, source: &ModelFile, rows: std::ops::Range<usize>) -> Result<Vec<u8>> {
        let row_bytes = self.row_bytes();
        let from = |row| self.interleave.map_or(row, |head_dim| halved_row(row, head_dim));
        let mut bytes = Vec::with_capacity(rows.len() * row_bytes);
        for row in rows {
            bytes.extend(&self.view.bytes[from(row) * row_bytes..][..row_bytes]);
        }
        let values = dequantise(self.view.ggml_type, &bytes);
        if values.iter().any(|value| !value.is_finite()) {
            let message = format!("tensor {}: a value is not a finite number", self.name);
            return Err(Error::invalid(source.path(), message));
        }
        to_blocks(self.ggml_type, &values)
    }
}

fn header(source: &ModelFile, recipe: Recipe, config: &ModelConfig) -> Result<GgufHeader> {
    let mut header = GgufHeader::default();
    header.describe_config(config);
    let name = source.path().file_stem().unwrap_or_default().to_string_lossy();
    header.set("general.name", MetadataValue::String(&name));
    header.set("general.file_type", MetadataValue::U32(recipe.file_type()));
    header.set("general.quantization_version", MetadataValue::U32(2));
    header.describe_vocabulary(&vocabulary(source, config)?);
    if let Some(template) = source.chat_template() {
        header.set("tokenizer.chat_template", MetadataValue::String(template));
    }
    Ok(header)
}

fn vocabulary(source: &ModelFile, config: &ModelConfig) -> Result<GgufVocabulary> {
    let mut vocabulary = match source.tokenizer()? {
        TokenizerSource::Gguf(vocabulary) => *vocabulary,
        TokenizerSource::HuggingFace { tokenizer, config } => read_tokenizer_json(&tokenizer, config.as_deref())?,
    };
    let tokens = vocabulary.tokens.len();
    if tokens > config.vocab_size {
        let message = format!("the tokenizer has {tokens} tokens, the embedding table {} rows", config.vocab_size);
        return Err(Error::invalid(source.path(), message));
    }
    vocabulary.pad(config.vocab_size);
    // What generation_config.json names goes before what the tokenizer says.
    let stated = source.end_ids();
    if vocabulary.eos_id.is_none_or(|id| !stated.contains(&id)) {
        vocabulary.eos_id = stated.first().copied().or(vocabulary.eos_id);
    }
    Ok(vocabulary)
}

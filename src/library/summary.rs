//! What a model file says about itself and what it will take to run it, without reading its weights.

use std::collections::BTreeMap;

use models::{MemoryPlan, ModelConfig, ModelFile, TensorInfo, TokenizerSource};
use serde::Serialize;

use super::LibraryError;
use crate::text::Tokenizer;

/// Contexts for which memory is told, as far as the model reaches.
const CONTEXTS: [usize; 5] = [2048, 4096, 8192, 32_768, 131_072];
/// Rows of one step and of its logits, as a server runs by default.
const STEP_ROWS: (usize, usize) = (512, 64);

/// A model file for people and programs. Sizes are bytes.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Summary {
    /// `GGUF v3`, `safetensors`.
    pub format: String,
    pub architecture: String,
    pub parameters: u64,
    pub tensors: usize,
    pub tensor_bytes: u64,
    /// By element type.
    pub types: BTreeMap<String, TypeShare>,
    pub layers: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub vocab_size: usize,
    pub max_context: usize,
    pub tied_embeddings: bool,
    pub rope_theta: f32,
    pub rope_scaling: String,
    pub tokenizer: TokenizerSummary,
    /// Bytes of the file's own chat template.
    pub chat_template_bytes: Option<usize>,
    pub memory: Vec<MemoryRow>,
}

/// The tensors of one element type.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct TypeShare {
    pub tensors: usize,
    pub bytes: u64,
}

/// The tokenizer.
#[derive(Debug, Clone, Serialize)]
pub struct TokenizerSummary {
    /// `gpt2`, `llama` or `tokenizer.json`.
    pub model: String,
    /// The pre-tokenizer that a GGUF file names.
    pub pre: Option<String>,
    /// The token in front of every prompt, if one is added.
    pub bos: Option<String>,
    /// Tokens that end an answer.
    pub ends: Vec<String>,
}

/// Memory for one sequence of this context; sequences share weights and workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct MemoryRow {
    pub context: usize,
    pub weight_bytes: u64,
    pub kv_bytes: u64,
    pub workspace_bytes: u64,
    pub total_bytes: u64,
}

impl Summary {
    /// Of an opened model.
    pub fn of(file: &ModelFile) -> Result<Self, LibraryError> {
        let config = file.config()?;
        let tensors = file.tensors();
        let elements = |tensor: &TensorInfo| tensor.shape.iter().product::<usize>() as u64;
        let mut types: BTreeMap<String, TypeShare> = BTreeMap::new();
        for tensor in &tensors {
            let share = types.entry(tensor.ggml_type.name().to_owned()).or_default();
            share.tensors += 1;
            share.bytes += tensor.bytes as u64;
        }
        Ok(Self {
            format: file.format(),
            architecture: format!("{:?}", config.architecture),
            parameters: tensors.iter().map(elements).sum(),
            tensors: tensors.len(),
            tensor_bytes: tensors.iter().map(|tensor| tensor.bytes as u64).sum(),
            types,
            layers: config.num_layers,
            hidden_size: config.hidden_size,
            intermediate_size: config.intermediate_size,
            heads: config.num_heads,
            kv_heads: config.num_kv_heads,
            head_dim: config.head_dim,
            vocab_size: config.vocab_size,
            max_context: config.max_context,
            tied_embeddings: config.tied_embeddings,
            rope_theta: config.rope_theta,
            rope_scaling: rope_scaling(&config),
            tokenizer: tokenizer(file)?,
            chat_template_bytes: file.chat_template().map(str::len),
            memory: memory(file, &config)?,
        })
    }

    /// The element type that most bytes have.
    pub fn main_type(&self) -> &str {
        self.types.iter().max_by_key(|(_, share)| share.bytes).map_or("-", |(name, _)| name)
    }
}

fn rope_scaling(config: &ModelConfig) -> String {
    use models::RopeScaling::{Factors, Linear, Llama3, None};
    match &config.rope_scaling {
        None => "none".into(),
        Linear { factor } => format!("linear, factor {factor}"),
        Llama3 { factor, original_context, .. } => format!("llama3, factor {factor}, trained with {original_context}"),
        Factors(factors) => format!("{} factors in the file", factors.len()),
    }
}

fn tokenizer(file: &ModelFile) -> Result<TokenizerSummary, LibraryError> {
    let source = file.tokenizer()?;
    let tokenizer = Tokenizer::from_source(&source)
        .map_err(|reason| LibraryError::Text { path: file.path().to_owned(), reason })?;
    let piece = |id: u32| tokenizer.piece(id);
    let (model, pre) = match &source {
        TokenizerSource::HuggingFace { .. } => ("tokenizer.json".to_owned(), None),
        TokenizerSource::Gguf(vocabulary) => {
            let pre = (!vocabulary.pre.is_empty()).then(|| vocabulary.pre.clone());
            (vocabulary.model.clone(), pre)
        }
    };
    let bos = tokenizer.add_bos().then(|| tokenizer.bos_id()).flatten().map(piece);
    Ok(TokenizerSummary { model, pre, bos, ends: file.end_ids().into_iter().map(piece).collect() })
}

fn memory(file: &ModelFile, config: &ModelConfig) -> Result<Vec<MemoryRow>, LibraryError> {
    let plan = MemoryPlan::new(file, kernels::KvCacheType::default(), STEP_ROWS, None)?.host;
    let mut contexts: Vec<_> = CONTEXTS.into_iter().filter(|&context| context < config.max_context).collect();
    contexts.push(config.max_context);
    let row = |context: usize| {
        let blocks = context.div_ceil(kernels::BLOCK_SIZE);
        MemoryRow {
            context,
            weight_bytes: plan.weights as u64,
            kv_bytes: (blocks * plan.block) as u64,
            workspace_bytes: plan.workspace as u64,
            total_bytes: plan.total(blocks) as u64,
        }
    };
    Ok(contexts.into_iter().map(row).collect())
}

//! What the JSON files of an encoder's folder say. Every number is judged before anything is made from it, and what would
//! change the vectors and does not run here is refused by its name.

use std::path::Path;

use candle_nn::Activation;
use candle_transformers::models::{bert, xlm_roberta};
use serde::Deserialize;
use serde_json::Value;

use crate::Error;
use crate::safetensors::read_json;

const MAX_JSON_BYTES: u64 = 256 << 10;
/// Beyond any published encoder; products of two stay far from overflow.
const MAX_SIZE: usize = 1 << 20;
const MAX_VOCABULARY: usize = 1 << 24;
/// Longer texts are cut even where the network has the positions: running streams wait for one text at a time.
const MAX_TOKENS: usize = 512;

/// An encoder's hyperparameters.
#[derive(Debug, Clone)]
pub(super) struct EncoderConfig {
    pub architecture: Architecture,
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_layers: usize,
    pub num_heads: usize,
    pub max_tokens: usize,
    pub pad_id: u32,
    pub pooling: Pooling,
}

/// The network with its configuration in Candle's words.
#[derive(Debug, Clone)]
pub(super) enum Architecture {
    Bert(bert::Config),
    XlmRoberta(xlm_roberta::Config),
}

/// How the rows of a text's tokens become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Pooling {
    /// The mean of all.
    Mean,
    /// The first.
    Cls,
}

/// The keys of `config.json` that matter.
#[derive(Deserialize)]
struct ConfigFile {
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f64,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
    quantization_config: Option<Value>,
}

/// One stage of `modules.json`.
#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// `sentence_bert_config.json`.
#[derive(Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

impl EncoderConfig {
    pub(super) fn read(folder: &Path) -> crate::Result<Self> {
        let path = folder.join("config.json");
        let file: Option<ConfigFile> = read_json(&path, MAX_JSON_BYTES)?;
        let file = file.ok_or_else(|| {
            let hint = "the file is missing; an embedding model is a folder with config.json, tokenizer.json and \
                        model.safetensors";
            Error::invalid(&path, hint)
        })?;
        let mut config = file.resolve().map_err(|message| Error::invalid(&path, message))?;
        config.pooling = pooling(folder)?;
        let sentence_path = folder.join("sentence_bert_config.json");
        let sentence: Option<SentenceConfig> = read_json(&sentence_path, MAX_JSON_BYTES)?;
        if let Some(stated) = sentence.and_then(|sentence| sentence.max_seq_length) {
            config.max_tokens = config.max_tokens.min(stated);
        }
        if config.max_tokens < 3 {
            return Err(Error::invalid(folder, "a text of a single token does not fit the model"));
        }
        Ok(config)
    }
}

impl ConfigFile {
    fn resolve(self) -> Result<EncoderConfig, String> {
        self.refuse()?;
        let sizes = [
            ("hidden_size", self.hidden_size, MAX_SIZE),
            ("num_hidden_layers", self.num_hidden_layers, 1024),
            ("num_attention_heads", self.num_attention_heads, MAX_SIZE),
            ("intermediate_size", self.intermediate_size, MAX_SIZE),
            ("max_position_embeddings", self.max_position_embeddings, MAX_SIZE),
            ("type_vocab_size", self.type_vocab_size, MAX_SIZE),
            ("vocab_size", self.vocab_size, MAX_VOCABULARY),
        ];
        if let Some((key, size, most)) = sizes.into_iter().find(|&(_, size, most)| size == 0 || size > most) {
            return Err(format!("key {key}: {size} is not between 1 and {most}"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            let (hidden, heads) = (self.hidden_size, self.num_attention_heads);
            return Err(format!("key num_attention_heads: {hidden} cannot be shared out to {heads} heads"));
        }
        if !(self.layer_norm_eps.is_finite() && self.layer_norm_eps > 0.0) {
            return Err("key layer_norm_eps: a positive number is expected".into());
        }
        let is_bert = self.is_bert()?;
        let pad_id = self.pad_token_id.unwrap_or(u32::from(!is_bert));
        if pad_id as usize >= self.vocab_size {
            return Err(format!("key pad_token_id: {pad_id} is outside the vocabulary of {}", self.vocab_size));
        }
        let positions = self.max_position_embeddings;
        Ok(EncoderConfig {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            intermediate_size: self.intermediate_size,
            num_layers: self.num_hidden_layers,
            num_heads: self.num_attention_heads,
            // The positions of RoBERTa begin behind the padding's.
            max_tokens: (if is_bert { positions } else { positions.saturating_sub(pad_id as usize + 1) })
                .min(MAX_TOKENS),
            pad_id,
            pooling: Pooling::Mean,
            architecture: if is_bert {
                Architecture::Bert(self.bert(pad_id)?)
            } else {
                Architecture::XlmRoberta(self.xlm_roberta(pad_id)?)
            },
        })
    }

    /// Refuses what Candle's networks would pass over.
    fn refuse(&self) -> Result<(), String> {
        if self.quantization_config.as_ref().is_some_and(|value| !value.is_null()) {
            return Err("key quantization_config: quantised encoders do not run here; take the original weights".into());
        }
        if self.is_decoder == Some(true) {
            return Err("key is_decoder: a decoder is no embedding model".into());
        }
        match self.position_embedding_type.as_deref() {
            None | Some("absolute") => Ok(()),
            Some(other) => Err(format!("key position_embedding_type: {other:?} does not run here; absolute does")),
        }
    }

    fn is_bert(&self) -> Result<bool, String> {
        match self.model_type.as_deref() {
            Some("bert") => Ok(true),
            Some("xlm-roberta" | "roberta" | "camembert") => Ok(false),
            other => {
                let other = other.unwrap_or_default();
                Err(format!("key model_type: {other:?} does not run here; bert, roberta and xlm-roberta do"))
            }
        }
    }

    fn activation(&self) -> Result<bert::HiddenAct, String> {
        match self.hidden_act.as_deref() {
            None | Some("gelu") => Ok(bert::HiddenAct::Gelu),
            Some("gelu_new" | "gelu_pytorch_tanh" | "gelu_fast") => Ok(bert::HiddenAct::GeluApproximate),
            Some("relu") => Ok(bert::HiddenAct::Relu),
            Some(other) => Err(format!("key hidden_act: {other:?} does not run here; gelu and relu do")),
        }
    }

    fn bert(&self, pad_id: u32) -> Result<bert::Config, String> {
        Ok(bert::Config {
            vocab_size: self.vocab_size,
            hidden_size: self.hidden_size,
            num_hidden_layers: self.num_hidden_layers,
            num_attention_heads: self.num_attention_heads,
            intermediate_size: self.intermediate_size,
            hidden_act: self.activation()?,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            layer_norm_eps: self.layer_norm_eps,
            pad_token_id: pad_id as usize,
            ..bert::Config::default()
        })
    }

    fn xlm_roberta(&self, pad_id: u32) -> Result<xlm_roberta::Config, String> {
        Ok(xlm_roberta::Config {
            hidden_size: self.hidden_size,
            layer_norm_eps: self.layer_norm_eps,
            attention_probs_dropout_prob: 0.0,
            hidden_dropout_prob: 0.0,
            num_attention_heads: self.num_attention_heads,
            position_embedding_type: "absolute".into(),
            intermediate_size: self.intermediate_size,
            hidden_act: match self.activation()? {
                bert::HiddenAct::Gelu => Activation::Gelu,
                bert::HiddenAct::GeluApproximate => Activation::NewGelu,
                bert::HiddenAct::Relu => Activation::Relu,
            },
            num_hidden_layers: self.num_hidden_layers,
            vocab_size: self.vocab_size,
            max_position_embeddings: self.max_position_embeddings,
            type_vocab_size: self.type_vocab_size,
            pad_token_id: pad_id,
        })
    }
}

/// The pooling that `modules.json` leads to, or the one in its usual place; the mean where nothing is said.
fn pooling(folder: &Path) -> crate::Result<Pooling> {
    let path = folder.join("modules.json");
    let modules: Option<Vec<Module>> = read_json(&path, MAX_JSON_BYTES)?;
    let mut place = "1_Pooling".to_owned();
    for module in modules.into_iter().flatten() {
        let kind = module.kind.rsplit('.').next().unwrap_or_default();
        match kind {
            "Transformer" if module.path.is_empty() => {}
            "Normalize" => {}
            // A name with a directory in it could lead anywhere.
            "Pooling" if Path::new(&module.path).file_name().is_some_and(|name| name == module.path.as_str()) => {
                place = module.path;
            }
            _ => {
                let (kind, place) = (kind.escape_debug(), module.path.escape_debug());
                return Err(Error::invalid(&path, format!("the module {kind} at \"{place}\" does not run here")));
            }
        }
    }
    let path = folder.join(place).join("config.json");
    let config: Option<Value> = read_json::<Value>(&path, MAX_JSON_BYTES)?;
    let Some(config) = config else { return Ok(Pooling::Mean) };
    let is_on = |(key, value): &(&String, &Value)| key.starts_with("pooling_mode_") && **value == Value::Bool(true);
    let mut modes: Vec<&str> = config.as_object().into_iter().flatten().filter(is_on).map(|(key, _)| &**key).collect();
    modes.extend(config["pooling_mode"].as_str());
    match modes[..] {
        [] | ["mean" | "pooling_mode_mean_tokens"] => Ok(Pooling::Mean),
        ["cls" | "pooling_mode_cls_token"] => Ok(Pooling::Cls),
        _ => Err(Error::invalid(&path, format!("the pooling {modes:?} does not run here; mean and cls do"))),
    }
}

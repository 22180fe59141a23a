//! The pre-tokenizers that a GGUF file names (`tokenizer.ggml.pre`): how text is cut before byte-level BPE.
//! The names are llama.cpp's; the expressions are those of the models' published `tokenizer.json`.

use tokenizers::normalizers::unicode::NFC;
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::digits::Digits;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{NormalizerWrapper, PreTokenizerWrapper, SplitDelimiterBehavior};

use super::{Result, TextError};

/// How a family of models prepares text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PreTokenizerKind {
    /// GPT-2's expression alone.
    Gpt2,
    /// Every digit apart, then GPT-2's expression (`smollm`, `starcoder`).
    DigitsGpt2,
    /// Llama 3: digits in groups of up to three.
    Llama3,
    /// Qwen 2 and 3: digits apart, text in NFC.
    Qwen2,
    /// Mistral's Tekken.
    Tekken,
    /// `o200k`, the vocabulary of GPT-4o and Llama 4.
    Gpt4o,
    /// llama.cpp's `default`: punctuation, GPT-2's expression, then digits in groups.
    Default,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

impl PreTokenizerKind {
    /// The kind that a `tokenizer.ggml.pre` value names. Files older than that key, or converted without it, say
    /// nothing or `default`; the vocabulary's control tokens (`has`) then tell the large families apart.
    pub(super) fn named(name: &str, has: impl Fn(&str) -> bool) -> Result<Self> {
        Ok(match name {
            "" | "default" if has("<|begin_of_text|>") && has("<|eot_id|>") => Self::Llama3,
            "" | "default" if has("<|endoftext|>") && has("<|im_start|>") && has("<|vision_pad|>") => Self::Qwen2,
            "" | "default" => Self::Default,
            "llama3" | "llama-v3" | "llama-bpe" | "smaug-bpe" | "dbrx" | "falcon3" => Self::Llama3,
            "qwen2" | "deepseek-r1-qwen" => Self::Qwen2,
            "smollm" | "starcoder" | "refact" | "codeshell" => Self::DigitsGpt2,
            "gpt-2" | "gpt2" | "phi-2" | "olmo" | "mpt" | "roberta-bpe" => Self::Gpt2,
            "tekken" => Self::Tekken,
            "gpt-4o" | "llama4" => Self::Gpt4o,
            other => {
                let known = "llama-bpe, smollm, starcoder, qwen2, tekken, gpt-4o, gpt-2 and default";
                let message = format!("its pre-tokenizer `{other}` is not supported; supported are {known}");
                return Err(TextError::Tokenizer(message));
            }
        })
    }

    /// Whether a word that is a token as a whole is taken before any merge.
    pub(super) fn ignores_merges(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Whether texts begin with the beginning of sequence token in files that do not say.
    pub(super) fn adds_bos(self) -> bool {
        matches!(self, Self::Llama3 | Self::Tekken)
    }

    /// Unicode normalisation before anything else.
    pub(super) fn normalizer(self) -> Option<NormalizerWrapper> {
        (self == Self::Qwen2).then_some(NormalizerWrapper::NFC(NFC))
    }

    /// The cutting itself, ending with the byte-level alphabet.
    pub(super) fn build(self) -> Result<PreTokenizerWrapper> {
        let gpt2 = || PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, true));
        let stages = match self {
            Self::Gpt2 => return Ok(gpt2()),
            Self::DigitsGpt2 => vec![PreTokenizerWrapper::Digits(Digits::new(true)), gpt2()],
            Self::Llama3 => vec![split(LLAMA3)?, byte_level()],
            Self::Qwen2 => vec![split(QWEN2)?, byte_level()],
            Self::Tekken => vec![split(TEKKEN)?, byte_level()],
            Self::Gpt4o => vec![split(GPT4O)?, byte_level()],
            Self::Default => vec![
                split(r"[\p{P}\$\+<=>\^~\|]+")?,
                split(GPT2)?,
                split(r"\p{N}+")?,
                split("[0-9][0-9][0-9]")?,
                byte_level(),
            ],
        };
        Ok(PreTokenizerWrapper::Sequence(Sequence::new(stages)))
    }
}

fn byte_level() -> PreTokenizerWrapper {
    PreTokenizerWrapper::ByteLevel(ByteLevel::new(false, true, false))
}

fn split(expression: &str) -> Result<PreTokenizerWrapper> {
    let pattern = SplitPattern::Regex(expression.to_owned());
    Split::new(pattern, SplitDelimiterBehavior::Isolated, false)
        .map(PreTokenizerWrapper::Split)
        .map_err(|error| TextError::Tokenizer(format!("its pre-tokenizer: {error}")))
}

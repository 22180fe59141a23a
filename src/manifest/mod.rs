//! Manifests: what the operator wants of a model beyond its file: where it comes from, its system prompt, its sampling.
//!
//! The manifest of `weights/NAME.gguf` or of the directory `weights/NAME` is `weights/NAME.toml`; a few are built in.
//! Must not open model files, and must not know what a request is.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The manifests inside the program, as TOML.
const BUILT_IN: [&str; 3] =
    [include_str!("saiga_llama3_8b.toml"), include_str!("saiga_llama3_8b-safetensors.toml"), include_str!("demo.toml")];

/// A model's manifest.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Name of the model: its file is `NAME.gguf`, its directory `NAME`.
    pub name: String,
    /// Repository on the hub, `owner/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repo: Option<String>,
    /// File inside the repository; absent for a safetensors directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// SHA-256 of the GGUF file, lower-case hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// SHA-256 of each file of a safetensors directory, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub files: BTreeMap<String, String>,
    /// Applies to requests without a system or developer message.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// A built-in chat template, `llama3` or `chatml`, instead of the file's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chat_template: Option<String>,
    /// Defaults for requests that do not say otherwise.
    #[serde(default, skip_serializing_if = "SamplingDefaults::is_empty")]
    pub sampling: SamplingDefaults,
}

/// Sampling parameters of a manifest; what is absent is left to the file's generation config and to the API's defaults.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
#[expect(missing_docs, reason = "fields are named after the API's")]
pub struct SamplingDefaults {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub temperature: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_k: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typical_p: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repetition_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frequency_penalty: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub presence_penalty: Option<f32>,
}

impl SamplingDefaults {
    fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// Why a manifest cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file exists but cannot be read, or the new one cannot be written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The manifest.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// Not TOML, an unknown key, or a value out of its range.
    #[error("{}: {message}", path.display())]
    Invalid {
        /// The manifest.
        path: PathBuf,
        /// What is wrong, with its line or key.
        message: String,
    },
}

impl Manifest {
    /// All built-in manifests.
    ///
    /// # Panics
    /// Never: a unit test parses them all.
    pub fn built_in() -> impl Iterator<Item = Self> {
        BUILT_IN.iter().map(|text| Self::parse(text).unwrap_or_else(|e| unreachable!("a built-in manifest: {e}")))
    }

    /// The built-in manifest of this name.
    pub fn built_in_named(name: &str) -> Option<Self> {
        Self::built_in().find(|manifest| manifest.name == name)
    }

    /// The manifest of a model file or directory: the TOML beside it, else the built-in one of its name, else none.
    pub fn of_model(model: &Path) -> Result<Option<Self>, ManifestError> {
        let path = Self::path_of(model);
        match fs::read_to_string(&path) {
            Ok(text) => Self::parse(&text).map(Some).map_err(|message| ManifestError::Invalid { path, message }),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Self::built_in_named(&Self::name_of(model))),
            Err(source) => Err(ManifestError::Io { path, source }),
        }
    }

    /// Where the manifest of a model file or directory stands: `NAME.toml` beside `NAME.gguf` or the directory `NAME`.
    pub fn path_of(model: &Path) -> PathBuf {
        model.with_file_name(format!("{}.toml", Self::name_of(model)))
    }

    /// The model's name: its file name without `.gguf`. (Dots inside a name are ordinary: `Qwen2.5-7B`.)
    pub fn name_of(model: &Path) -> String {
        let name = model.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        name.strip_suffix(".gguf").map_or(name.clone(), str::to_owned)
    }

    /// Writes the manifest beside the model.
    pub fn write_beside(&self, model: &Path) -> Result<PathBuf, ManifestError> {
        let path = Self::path_of(model);
        let text = toml::to_string_pretty(self)
            .map_err(|e| ManifestError::Invalid { path: path.clone(), message: e.to_string() })?;
        fs::write(&path, text).map_err(|source| ManifestError::Io { path: path.clone(), source })?;
        Ok(path)
    }

    fn parse(text: &str) -> Result<Self, String> {
        let manifest: Self = toml::from_str(text).map_err(|e| e.to_string())?;
        manifest.check()?;
        Ok(manifest)
    }

    fn check(&self) -> Result<(), String> {
        if self.name.is_empty() || self.name.contains(['/', '\\']) || self.name.starts_with('.') {
            return Err(format!("name = {:?}: a plain file name is needed", self.name));
        }
        let hashes = self.sha256.iter().chain(self.files.values());
        for hash in hashes {
            if hash.len() != 64 || !hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
                return Err(format!("sha256 {hash:?}: 64 lower-case hexadecimal digits are needed"));
            }
        }
        self.sampling.check()
    }
}

impl SamplingDefaults {
    /// The API's own ranges.
    fn check(&self) -> Result<(), String> {
        let within = |key: &str, value: Option<f32>, low: f32, high: f32| match value {
            Some(v) if !(low..=high).contains(&v) => {
                Err(format!("sampling.{key} = {v}: a number from {low} to {high} is needed"))
            }
            _ => Ok(()),
        };
        within("temperature", self.temperature, 0.0, 2.0)?;
        within("top_p", self.top_p, 0.0, 1.0)?;
        within("min_p", self.min_p, 0.0, 1.0)?;
        within("typical_p", self.typical_p, 0.0, 1.0)?;
        within("repetition_penalty", self.repetition_penalty, 0.01, 10.0)?;
        within("frequency_penalty", self.frequency_penalty, -2.0, 2.0)?;
        within("presence_penalty", self.presence_penalty, -2.0, 2.0)
    }
}

#[cfg(test)]
mod tests;

//! Texts that wait for the encoder, and the steps that encode them between the model's. Requests take turns, a text of
//! each, and a step has a bounded number of tokens, so that neither a large request nor running streams wait for long.

use std::collections::VecDeque;

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::Executor;

/// Tokens of a step at most, padding counted; a longer text is a step by itself.
pub const ENCODER_TOKENS_PER_STEP: usize = 256;
/// Tokens that may wait in all; further requests are refused.
pub(super) const MAX_WAITING_TOKENS: usize = 1 << 16;

/// What an encoder takes and gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncoderShape {
    /// Numbers in a vector.
    pub dimensions: usize,
    /// Tokens of a text at most.
    pub max_tokens: usize,
    /// Token ids lie below this.
    pub vocab_size: usize,
}

/// Why texts were not encoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The engine has no encoder.
    #[error("there is no embedding model")]
    NoEncoder,
    /// What is asked can never be done.
    #[error("{0}")]
    Invalid(String),
    /// Too much waits.
    #[error("too many texts wait for the embedding model")]
    Busy,
    /// The encoder failed on a step that the texts were in.
    #[error("the embedding model failed: {0}")]
    Failed(String),
    /// The engine ends or has ended.
    #[error("the engine has stopped")]
    Stopped,
}

/// The texts of one request.
#[derive(Debug)]
pub(super) struct Encoding {
    pub texts: Vec<Vec<u32>>,
    pub reply: oneshot::Sender<Result<Vec<Vec<f32>>, EncodeError>>,
    /// Its share of what may wait.
    pub permit: OwnedSemaphorePermit,
}

/// All requests that wait.
#[derive(Debug, Default)]
pub(super) struct EncodeQueue {
    jobs: VecDeque<Job>,
}

#[derive(Debug)]
struct Job {
    encoding: Encoding,
    /// Of the first texts. Never all of them.
    vectors: Vec<Vec<f32>>,
}

impl EncoderShape {
    /// Whether these texts can be encoded.
    pub(super) fn check(&self, texts: &[Vec<u32>]) -> Result<(), EncodeError> {
        let Self { max_tokens, vocab_size, .. } = *self;
        for text in texts {
            if text.is_empty() || text.len() > max_tokens {
                let message = format!("a text has {} tokens, the embedding model takes 1 to {max_tokens}", text.len());
                return Err(EncodeError::Invalid(message));
            }
            if let Some(id) = text.iter().find(|id| **id as usize >= vocab_size) {
                let message = format!("token {id} is not in the embedding model's vocabulary of {vocab_size} tokens");
                return Err(EncodeError::Invalid(message));
            }
        }
        Ok(())
    }
}

impl EncodeQueue {
    pub fn add(&mut self, encoding: Encoding) {
        self.jobs.push_back(Job { encoding, vectors: Vec::new() });
    }

    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Forgets everybody, who then hears [`EncodeError::Stopped`].
    pub fn clear(&mut self) {
        self.jobs.clear();
    }

    /// Encodes some of what waits, and answers those that are complete.
    pub fn step<E: Executor>(&mut self, executor: &mut E) {
        self.jobs.retain(|job| !job.encoding.reply.is_closed());
        let chosen = self.choose();
        if chosen.is_empty() {
            return;
        }
        let texts: Vec<&[u32]> = chosen.iter().map(|&(job, text)| &self.jobs[job].encoding.texts[text][..]).collect();
        let vectors = executor.encode(&texts).and_then(|vectors| {
            anyhow::ensure!(vectors.len() == texts.len(), "{} vectors came for {}", vectors.len(), texts.len());
            Ok(vectors)
        });
        // Jobs of this step are the first ones; those that are not complete go to the end.
        let met = chosen.iter().map(|&(job, _)| job + 1).max().unwrap_or(0);
        let mut jobs: Vec<Job> = self.jobs.drain(..met).collect();
        match vectors {
            Ok(vectors) => {
                for ((job, _), vector) in chosen.into_iter().zip(vectors) {
                    jobs[job].vectors.push(vector);
                }
                for job in jobs {
                    if job.vectors.len() == job.encoding.texts.len() {
                        job.encoding.answer(Ok(job.vectors));
                    } else {
                        self.jobs.push_back(job);
                    }
                }
            }
            Err(error) => {
                tracing::error!("encoding {} texts failed: {error:#}", chosen.len());
                let failed = EncodeError::Failed(format!("{error:#}"));
                for job in jobs {
                    job.encoding.answer(Err(failed.clone()));
                }
            }
        }
    }

    /// Texts of the next step as `(job, text)`, a text of each job in turn, in the order of the jobs.
    fn choose(&self) -> Vec<(usize, usize)> {
        let mut chosen = Vec::new();
        let mut width = 0;
        for round in 0.. {
            let before = chosen.len();
            for (index, job) in self.jobs.iter().enumerate() {
                let text = job.vectors.len() + round;
                let Some(ids) = job.encoding.texts.get(text) else { continue };
                width = width.max(ids.len());
                if !chosen.is_empty() && (chosen.len() + 1) * width > ENCODER_TOKENS_PER_STEP {
                    return chosen;
                }
                chosen.push((index, text));
            }
            if chosen.len() == before {
                break;
            }
        }
        chosen
    }
}

impl Encoding {
    fn answer(self, result: Result<Vec<Vec<f32>>, EncodeError>) {
        drop(self.permit);
        // Who has left needs no answer.
        let _ = self.reply.send(result);
    }
}

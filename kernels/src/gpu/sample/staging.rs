//! A step's tasks as rows of the sampler's kernels.

use super::Slot;
use super::records::{ROW_WORDS, RowRecord};
use crate::sampling::{MAX_ALTERNATIVES, SampleKind, SampleTask};
use crate::{Error, Result};

/// A step that was staged.
#[derive(Debug, Default)]
pub struct Step {
    pub number: u64,
    pub num_rows: usize,
    /// Rows of logits that it needs.
    pub logit_rows: usize,
    pub has_logprobs: bool,
    pub tasks: Vec<Staged>,
}

/// A task of a step.
#[derive(Debug, Clone, Copy)]
pub struct Staged {
    /// Of the step's rows.
    pub first: usize,
    pub is_prompt: bool,
    pub logprobs: Option<u8>,
}

impl Step {
    /// Puts a task's rows behind `words`.
    pub fn add(&mut self, task: &SampleTask<'_>, slot: &Slot, words: &mut Vec<u32>) -> Result<()> {
        let first = self.num_rows;
        let row = |index: usize| RowRecord {
            logits: task.first_row + index,
            slot: task.slot,
            token: 0,
            prompt: None,
            first,
            index,
            length: 1,
            mask: None,
        };
        let (is_prompt, logprobs) = match task.kind {
            SampleKind::PromptLogprob { token, alternatives } => {
                words.extend(RowRecord { token, prompt: Some(alternatives), ..row(0) }.words());
                (true, Some(alternatives))
            }
            SampleKind::Sample { drafts, first_mask } => {
                let length = 1 + drafts.len();
                for (index, &token) in [0].iter().chain(drafts).enumerate() {
                    let mask = first_mask.map(|first| first + index);
                    words.extend(RowRecord { token, length, mask, ..row(index) }.words());
                }
                (false, slot.logprobs)
            }
        };
        check_alternatives(logprobs)?;
        self.num_rows = words.len() / ROW_WORDS - 1;
        self.logit_rows = self.logit_rows.max(task.first_row + self.num_rows - first);
        self.has_logprobs |= logprobs.is_some_and(|alternatives| alternatives > 0);
        self.tasks.push(Staged { first, is_prompt, logprobs });
        Ok(())
    }
}

/// Checks that so many can be told.
pub fn check_alternatives(alternatives: Option<u8>) -> Result<()> {
    match alternatives {
        Some(count) if count > MAX_ALTERNATIVES => {
            Err(Error::shape("sampler", format!("{count} alternatives where {MAX_ALTERNATIVES} can be told")))
        }
        _ => Ok(()),
    }
}

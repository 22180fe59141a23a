//! What the kernels leave of a step, read.

use super::records::{HEAD_WORDS, Head, NOT_FINITE, NOTHING_ALLOWED, ROW_ALTERNATIVES};
use super::staging::Staged;
use super::workspace::SamplerSizes;
use crate::sampling::{Logprob, SampleOutcome, SampleResults, SampledToken};

/// One area of the output.
pub struct Output<'a> {
    pub words: &'a [u32],
    pub sizes: SamplerSizes,
}

impl Output<'_> {
    /// What came of a task.
    pub fn read(&self, task: Staged, results: &mut SampleResults) {
        let head = Head::of_row(self.words, task.first);
        results.outcomes.push(if head.flags & NOT_FINITE != 0 {
            SampleOutcome::NotFinite
        } else if head.flags & NOTHING_ALLOWED != 0 {
            SampleOutcome::NothingAllowed
        } else if task.is_prompt {
            SampleOutcome::Logprob(self.logprob(task.first, task.logprobs.unwrap_or(0)))
        } else {
            let token = |row| SampledToken {
                id: Head::of_row(self.words, row).token,
                logprob: task.logprobs.map(|alternatives| self.logprob(row, alternatives)),
            };
            results.tokens.extend((task.first..task.first + head.accepted).map(token));
            SampleOutcome::Tokens(head.accepted)
        });
    }

    fn logprob(&self, row: usize, alternatives: u8) -> Logprob {
        let count = usize::from(alternatives).min(self.sizes.vocab);
        let first = HEAD_WORDS * self.sizes.max_rows + ROW_ALTERNATIVES * row;
        let pairs = if count > 0 { &self.words[first..first + 2 * count] } else { &[] };
        let top = pairs.chunks_exact(2).map(|pair| (pair[0], f32::from_bits(pair[1]))).collect();
        Logprob { logprob: Head::of_row(self.words, row).logprob, top }
    }
}

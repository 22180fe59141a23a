//! Chooses on the card: tells its sampler who runs in which slot.

use candle_core::Tensor;
use kernels::sampling::{DeviceSampler, SampleResults, SampleTask, SampleTicket, SamplerParams};

use crate::engine::batch::SequenceStart;

/// The card's sampler.
#[derive(Debug)]
pub(crate) struct CardChooser {
    sampler: DeviceSampler,
}

impl CardChooser {
    pub fn new(sampler: DeviceSampler) -> Self {
        Self { sampler }
    }

    pub fn last_tokens(&self) -> &Tensor {
        self.sampler.last_tokens()
    }

    pub fn start(&mut self, start: &SequenceStart) -> kernels::Result<()> {
        let (spec, params) = (&start.spec, &start.spec.params);
        let (prompt, output) = start.tokens.split_at(start.prompt_len);
        let params = SamplerParams {
            temperature: params.temperature,
            top_k: params.top_k,
            top_p: params.top_p,
            min_p: params.min_p,
            typical_p: params.typical_p,
            repetition_penalty: params.repetition_penalty,
            frequency_penalty: params.frequency_penalty,
            presence_penalty: params.presence_penalty,
            logit_bias: &params.logit_bias,
            stop_token_ids: &spec.stop_token_ids,
            min_tokens: spec.min_tokens,
            seed: spec.seed,
            logprobs: params.logprobs,
        };
        self.sampler.start(start.slot, &params, prompt, output)
    }

    pub fn end(&mut self, slot: usize) {
        self.sampler.end(slot);
    }

    pub fn submit(&mut self, tasks: &[SampleTask<'_>], logits: &Tensor) -> kernels::Result<SampleTicket> {
        self.sampler.run(tasks.iter().copied(), logits)
    }

    pub fn collect(&mut self, ticket: SampleTicket) -> anyhow::Result<SampleResults> {
        let mut results = SampleResults::default();
        self.sampler.collect(ticket, &mut results)?;
        Ok(results)
    }
}

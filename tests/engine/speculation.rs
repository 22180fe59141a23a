//! Answers that quote their prompts, with and without drafts: the same to the bit, and sooner.

use std::time::Instant;

use steppe::{
    engine::{EngineHandle, EngineOptions, EngineRequest, EngineStats, FinishReason, SamplingParams},
    text::Tokenizer,
};

use super::{Answer, MACHINE, ModelFile, PoisonError, answer, demo_model, options, request, start};

const CODE: &str = "def mean(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / \
    len(values)\n\ndef variance(values):\n    center = mean(values)\n    total = 0\n    for value in values:\n        \
    total += (value - center) ** 2\n    return total / len(values)\n";

const NOTES: &str = "The lighthouse of Kallby was built in 1871 by the engineer Anna Lindqvist. Its lamp burned colza oil \
    until 1912, when it was replaced by an acetylene burner. The keeper's house beside it is a museum today. It opens on \
    Tuesdays and Saturdays from May to September. The boat to the island leaves at nine in the morning and comes back at five \
    in the afternoon.";

/// Conversations that ask for quotations, and others.
fn questions() -> [Vec<(String, &'static str)>; 2] {
    let change = format!("Rewrite this Python code with `total` changed to `result`:\n\n```python\n{CODE}```");
    let repeat = format!("{NOTES}\n\nRepeat the text above word for word, but write 1881 for 1871.");
    let quote = format!("{NOTES}\n\nQuote the sentences that say when the museum is open and when the boat leaves.");
    let others = ["Tell me about the history of Rome.", "Explain how a steam engine works.", "Tell a story of a fox."];
    let begun = "```python\ndef mean(values):\n    result = 0\n    for value in values:\n";
    [vec![(change, begun), (repeat, ""), (quote, "")], others.map(|question| (question.to_owned(), "")).to_vec()]
}

/// Their tokens with the beginnings of the answers, and the token that ends an answer.
fn prompts() -> ([Vec<Vec<u32>>; 2], u32) {
    let file = ModelFile::open(&demo_model()).unwrap();
    let tokenizer = Tokenizer::from_source(&file.tokenizer().unwrap()).unwrap();
    let [begin, end] = ["<|im_start|>", "<|im_end|>"].map(|name| tokenizer.special_id(name).unwrap());
    let text = |text: &str| tokenizer.encode(text, false).unwrap();
    let prompt = |(question, begun): &(String, &str)| {
        let turns =
            [text("user\n"), text(question), vec![end], text("\n"), vec![begin], text("assistant\n"), text(begun)];
        [vec![begin], turns.concat()].concat()
    };
    (questions().map(|questions| questions.iter().map(prompt).collect()), end)
}

/// Every way of choosing tokens that looks at those chosen before, or at their number.
fn requests() -> Vec<EngineRequest> {
    let ([prompts, _], end) = prompts();
    let greedy = SamplingParams { temperature: 0.0, ..SamplingParams::default() };
    let seeded = SamplingParams { temperature: 0.5, top_p: 0.9, seed: Some(4), ..SamplingParams::default() };
    let mut requests = Vec::new();
    for (index, prompt) in prompts.iter().enumerate() {
        let ask = |sampling: SamplingParams, max_tokens: usize| EngineRequest {
            sampling: SamplingParams { logprobs: Some(2), ..sampling },
            stop_token_ids: vec![end],
            ..request(prompt.clone(), max_tokens)
        };
        let penalties = SamplingParams { repetition_penalty: 1.05, presence_penalty: 0.1, ..seeded.clone() };
        let frequency = SamplingParams { frequency_penalty: 0.05, ..greedy.clone() };
        let bias = vec![(prompt[prompt.len() / 2], 2.0), (end, -1.0)];
        requests.push(ask(greedy.clone(), 90));
        requests.push(ask(seeded.clone(), 50));
        requests.push(ask(penalties, 40 + index));
        requests.push(ask(frequency, 40));
        requests.push(ask(SamplingParams { logit_bias: bias, ..seeded.clone() }, 40));
        requests.push(EngineRequest { min_tokens: 85, ..ask(greedy.clone(), 100) });
        requests.push(EngineRequest { prompt_logprobs: Some(1), ..ask(greedy.clone(), 45) });
        // Ends within a quotation, at a token that the prompt has, too.
        let stop_token_ids = vec![prompt[prompt.len() / 3]];
        requests.push(EngineRequest { stop_token_ids, ..ask(greedy.clone(), 120) });
    }
    requests
}

async fn one_by_one(engine: &EngineHandle) -> Vec<Answer> {
    let mut answers = Vec::new();
    for request in requests() {
        answers.push(answer(engine.submit(request).unwrap()).await);
    }
    answers
}

#[tokio::test]
async fn answers_are_the_same_with_and_without_drafts() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = start(EngineOptions { speculation: false, ..options() });
    let plain = one_by_one(&engine).await;
    assert_eq!(engine.stats().drafted_tokens, 0);
    drop(engine);
    assert!(plain.iter().any(|answer| matches!(answer.end, Some((FinishReason::Stop, _)))));
    assert!(plain.iter().any(|answer| matches!(answer.end, Some((FinishReason::Length, _)))));

    let engine = start(options());
    assert_eq!(one_by_one(&engine).await, plain, "alone");
    let alone = engine.stats();
    assert!(alone.accepted_tokens * 4 > alone.generation_tokens, "{alone:?}");
    assert!(alone.drafted_tokens > alone.accepted_tokens + 50, "no draft was wrong: {alone:?}");
    for (few, plain) in requests().chunks(4).zip(plain.chunks(4)) {
        let generations: Vec<_> = few.iter().map(|request| engine.submit(request.clone()).unwrap()).collect();
        for (generation, plain) in generations.into_iter().zip(plain) {
            assert_eq!(answer(generation).await, *plain, "four together");
        }
    }
    assert!(engine.stats().accepted_tokens > alone.accepted_tokens, "{:?}", engine.stats());
    drop(engine);

    // So few blocks that some are preempted.
    let engine = start(EngineOptions { num_blocks: 14, max_sequences: 4, ..options() });
    let generations: Vec<_> = requests().into_iter().map(|request| engine.submit(request).unwrap()).collect();
    for (generation, plain) in generations.into_iter().zip(&plain) {
        assert_eq!(answer(generation).await, *plain, "with few blocks");
    }
    assert!(engine.stats().preemptions > 0, "{:?}", engine.stats());
}

#[tokio::test]
async fn an_answer_ends_where_the_context_does() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let ([prompts, _], _) = prompts();
    let len = prompts[1].len();
    for room in [60, 77] {
        let whole = |speculation| {
            let max_context = len + room;
            EngineOptions { speculation, max_context, num_blocks: max_context.div_ceil(32), ..options() }
        };
        let mut answers = Vec::new();
        for speculation in [false, true] {
            let engine = start(whole(speculation));
            answers.push(answer(engine.submit(request(prompts[1].clone(), room)).unwrap()).await);
            assert_eq!(engine.stats().accepted_tokens > 10, speculation, "{:?}", engine.stats());
        }
        assert_eq!((&answers[0], answers[0].tokens.len()), (&answers[1], room));
    }
}

/// Tokens per second of these prompts' answers, and what was drafted for them.
async fn speed(engine: &EngineHandle, prompts: &[Vec<u32>], temperature: f32, together: usize) -> (f64, EngineStats) {
    let (begin, before) = (Instant::now(), engine.stats());
    let mut tokens = 0;
    for few in prompts.chunks(together) {
        let ask = |prompt: &Vec<u32>| {
            let sampling = SamplingParams { temperature, seed: Some(1), ..SamplingParams::default() };
            engine.submit(EngineRequest { sampling, ..request(prompt.clone(), 160) }).unwrap()
        };
        for generation in few.iter().map(ask).collect::<Vec<_>>() {
            tokens += answer(generation).await.tokens.len();
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    let after = engine.stats();
    let drafted_tokens = after.drafted_tokens - before.drafted_tokens;
    let accepted_tokens = after.accepted_tokens - before.accepted_tokens;
    (tokens as f64 / seconds, EngineStats { drafted_tokens, accepted_tokens, ..after })
}

#[tokio::test]
#[ignore = "measures times of a machine that has nothing else to do; scripts/test --long"]
async fn quotations_come_sooner_with_drafts_and_other_answers_no_later() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let ([quoting, other], _) = prompts();
    let engines = [false, true].map(|speculation| start(EngineOptions { speculation, ..options() }));
    let cases = [
        ("quoting", &quoting, 0.0, 1, 1.3),
        ("quoting", &quoting, 0.0, 3, 0.95),
        ("other", &other, 1.0, 1, 0.95),
        ("other", &other, 1.0, 3, 0.95),
    ];
    let mut misses = Vec::new();
    for (name, prompts, temperature, together, least) in cases {
        let mut best = [0f64; 2];
        let mut drafts = EngineStats::default();
        for _ in 0..4 {
            for (engine, best) in engines.iter().zip(&mut best) {
                let (tokens, stats) = speed(engine, prompts, temperature, together).await;
                (*best, drafts) = (best.max(tokens), stats);
            }
        }
        let ([without, with], EngineStats { drafted_tokens, accepted_tokens, .. }) = (best, drafts);
        let ratio = with / without;
        println!(
            "{name}, {together} together: {without:.0} tokens/s without drafts, {with:.0} with, {ratio:.2} times as fast; \
             {drafted_tokens} drafted, {accepted_tokens} accepted"
        );
        misses.extend((ratio < least).then(|| format!("{name}, {together} together: {ratio:.2}, not {least}")));
    }
    assert!(misses.is_empty(), "{misses:?}");
}

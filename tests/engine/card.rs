//! Answers from a card, or the emulated one: tokens are chosen there, and a step begins before the one before it has been
//! collected. The model is a tiny one.

use models::{Architecture, Placement, Recipe, random::RandomModel};

use super::*;

const VOCABULARY: u32 = 288;

/// Where they are.
#[derive(Debug, Clone, Copy)]
enum Layers {
    Card,
    Both,
}

fn start_on(layers: Layers, options: &EngineOptions) -> EngineHandle {
    start_on_cards(&[0], layers, options)
}

/// A replica on each of these cards.
fn start_on_cards(cards: &[usize], layers: Layers, options: &EngineOptions) -> EngineHandle {
    let make = |&card: &usize| {
        let options = options.clone();
        move || runner(card, layers, &options)
    };
    Engine::start_replicas(options.clone(), cards.iter().map(make).collect()).unwrap()
}

fn runner(card: usize, layers: Layers, options: &EngineOptions) -> anyhow::Result<ModelRunner> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("tiny.gguf");
    RandomModel::tiny(Architecture::Llama, Recipe::Q4KM).write_gguf(&path, &mut |_| ())?;
    let file = ModelFile::open(&path)?;
    let devices = ComputeOptions { threads: THREADS, isa: None, activations: Activations::Int8 };
    let (host, card) = (Compute::cpu(devices)?, Compute::cuda(card, devices)?);
    let placement = match layers {
        Layers::Card => Placement::from(&card),
        Layers::Both => Placement::split(&host, &card, 1),
    };
    let (rows, logit_rows) = (options.max_tokens_per_step, options.max_logit_rows());
    let model = Model::load(&file, placement.clone(), rows, logit_rows, &mut |_| {})?;
    let kv = KvCache::new(model.config(), KvCacheType::F16, options.num_blocks, placement.clone())?;
    ModelRunner::new(model, kv, placement.last())
}

fn options() -> EngineOptions {
    EngineOptions {
        max_tokens_per_step: 64,
        max_sequences: 8,
        num_blocks: 64,
        max_context: 512,
        vocab_size: VOCABULARY as usize,
        ..super::options()
    }
}

fn requests() -> Vec<EngineRequest> {
    let mut random = fastrand::Rng::with_seed(3);
    let request = |index: usize| {
        let prompt = (0..[3, 40, 75][index % 3]).map(|_| random.u32(..VOCABULARY)).collect();
        let seeded = SamplingParams { seed: Some(index as u64), logprobs: Some(2), ..SamplingParams::default() };
        let sampling = match index % 4 {
            0 => SamplingParams { temperature: 0.0, ..seeded },
            1 => SamplingParams { top_k: 30, top_p: 0.9, ..seeded },
            2 => SamplingParams { repetition_penalty: 1.2, presence_penalty: 0.5, min_p: 0.02, ..seeded },
            _ => SamplingParams { typical_p: 0.9, logit_bias: vec![(7, 2.0), (9, -100.0)], ..seeded },
        };
        // Some end at a token that nobody foresees, so that the step after it is for nothing.
        let stop_token_ids = if index % 3 == 1 { (0..VOCABULARY).step_by(9).collect() } else { Vec::new() };
        let prompt_logprobs = (index % 5 == 4).then_some(1);
        EngineRequest { sampling, stop_token_ids, prompt_logprobs, ..request(prompt, 12 + index) }
    };
    (0..8).map(request).collect()
}

async fn together(engine: &EngineHandle) -> Vec<Answer> {
    let generations: Vec<_> = requests().into_iter().map(|request| engine.submit(request).unwrap()).collect();
    let mut answers = Vec::new();
    for generation in generations {
        answers.push(answer(generation).await);
    }
    answers
}

#[tokio::test]
async fn neighbours_and_overlapping_steps_change_no_answer() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    for layers in [Layers::Card, Layers::Both] {
        let engine = start_on(layers, &EngineOptions { prefix_cache: false, ..options() });
        let mut alone = Vec::new();
        for request in requests() {
            alone.push(answer(engine.submit(request).unwrap()).await);
        }
        let stopped = alone.iter().filter(|answer| answer.end.is_some_and(|(reason, _)| reason == FinishReason::Stop));
        assert!(stopped.count() > 0 && alone.iter().map(|answer| answer.tokens.len()).sum::<usize>() > 60);
        assert_eq!(together(&engine).await, alone, "{layers:?}, together");
    }
}

#[tokio::test]
async fn a_preempted_answer_is_the_same() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let request = |i: u32| {
        let sampling = SamplingParams { seed: Some(3), frequency_penalty: 0.3, ..SamplingParams::default() };
        EngineRequest { sampling, ..request((0..30).map(|j| (i * 97 + j * 31) % VOCABULARY).collect(), 90) }
    };
    let mut answers = [Vec::new(), Vec::new()];
    for (answers, num_blocks) in answers.iter_mut().zip([64, 9]) {
        let engine = start_on(Layers::Card, &EngineOptions { num_blocks, ..options() });
        let generations: Vec<_> = (0..4).map(|i| engine.submit(request(i)).unwrap()).collect();
        for generation in generations {
            answers.push(answer(generation).await);
        }
        assert_eq!(engine.stats().preemptions > 0, num_blocks == 9, "{:?}", engine.stats());
    }
    assert_eq!(answers[0], answers[1]);
}

#[tokio::test]
async fn whoever_leaves_gives_everything_back() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let engine = start_on(Layers::Card, &EngineOptions { prefix_cache: false, ..options() });
    let mut staying = None;
    for (index, request) in requests().into_iter().enumerate() {
        let mut generation = engine.submit(request).unwrap();
        if index == 5 {
            staying = Some(generation);
        } else {
            generation.next().await;
        }
    }
    answer(staying.unwrap()).await;
    for _ in 0..200 {
        if engine.stats().kv_blocks_used == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{:?}", engine.stats());
}

#[tokio::test]
async fn two_cards_answer_as_one_does() {
    let _machine = MACHINE.lock().unwrap_or_else(PoisonError::into_inner);
    let [one, two] = [&[0][..], &[0, 1]].map(|cards| start_on_cards(cards, Layers::Card, &options()));
    assert_eq!((one.num_replicas(), two.num_replicas()), (1, 2));
    assert_eq!(together(&two).await, together(&one).await);
    assert_eq!((one.stats().kv_blocks, two.stats().kv_blocks), (64, 128), "both have worked");
}

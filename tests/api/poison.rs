//! A model with a value that is not a number in one token's embedding, and an infinite one in another's: whoever says
//! such a token gets an error, and nobody else notices, neither beside it nor in the blocks that it leaves behind.

use std::net::SocketAddr;
use std::path::Path;

use kernels::GgmlType;
use models::random::RandomModel;
use models::{Architecture, ModelFile, Recipe};
use serde_json::{Value as Json, json};
use steppe::engine::{
    CacheScope, EngineError, EngineHandle, EngineRequest, Generation, SamplingParams, TokenEvent, TokenLogprob,
};

use crate::harness::{ServedModel, ask, serve_model, with};
use crate::http::post;

const CHAT: &str = "/v1/chat/completions";
/// In a vocabulary of bytes a token is its byte.
const NAN: u32 = b'~' as u32;
const INFINITE: u32 = b'^' as u32;

/// A tiny model of this type, poisoned.
fn write_model(path: &Path, ggml_type: GgmlType) {
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(ggml_type));
    model.write_gguf(path, &mut |_| {}).unwrap();
    let mut bytes = std::fs::read(path).unwrap();
    let file = ModelFile::open(path).unwrap();
    let table = file.tensor("token_embd.weight").unwrap().bytes;
    let start = bytes.windows(table.len()).position(|window| window == table).unwrap();
    let row_bytes = table.len() / model.config.vocab_size;
    // A row begins with an f16: its first value, or its first block's scale.
    for (token, value) in [(NAN, 0x7e00_u16), (INFINITE, 0x7c00)] {
        bytes[start + token as usize * row_bytes..][..2].copy_from_slice(&value.to_le_bytes());
    }
    drop(file);
    std::fs::write(path, bytes).unwrap();
}

/// The model behind the API, with 64 blocks of KV cache.
async fn server(path: &Path) -> ServedModel {
    let model = serve_model(&[
        ("model.path", path.to_str().unwrap()),
        ("engine.kv_cache_mib", "1"),
        ("engine.max_sequences", "16"),
        ("engine.max_batch_tokens", "128"),
    ])
    .await
    .unwrap();
    assert_eq!(model.engine.options().num_blocks, 64);
    model
}

fn request(prompt: Vec<u32>, max_tokens: usize) -> EngineRequest {
    EngineRequest {
        prompt,
        sampling: SamplingParams { temperature: 0.0, logprobs: Some(2), ..SamplingParams::default() },
        max_tokens,
        min_tokens: 0,
        stop_token_ids: Vec::new(),
        user: 0,
        weight: 1,
        priority: 0,
        scope: CacheScope::default(),
        deadline: None,
        prompt_logprobs: None,
    }
}

/// So many sound tokens, of which the first `shared` are the same for all.
fn tokens(seed: u64, shared: usize, own: usize) -> Vec<u32> {
    let letters = |seed, len| {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..len).map(move |_| random.u32(u32::from(b'a')..=u32::from(b'z'))).collect::<Vec<_>>()
    };
    [letters(1000, shared), letters(seed, own)].concat()
}

/// Lengths on both sides of a block's and a step's end; half of them behind a beginning that the poisoned share.
fn sound_requests() -> Vec<EngineRequest> {
    (0..8).map(|i| request(tokens(i, [0, 70][i as usize % 2], 5 + 13 * i as usize), 40)).collect()
}

/// The token at the end, in the middle, at the beginning, and in a step of its own; one that reports its prompt.
fn poisoned_requests() -> Vec<EngineRequest> {
    let around = |before: usize, token, after| [tokens(0, before, 0), vec![token], tokens(7, 0, after)].concat();
    let prompts = [
        around(70, NAN, 0),
        around(70, NAN, 30),
        around(0, NAN, 200),
        around(70, INFINITE, 0),
        around(40, INFINITE, 3),
        around(0, INFINITE, 200),
    ];
    let mut requests: Vec<_> = prompts.into_iter().map(|prompt| request(prompt, 40)).collect();
    requests.push(EngineRequest { prompt_logprobs: Some(1), ..request(around(70, NAN, 30), 1) });
    requests
}

type Answer = Result<Vec<(u32, Option<TokenLogprob>)>, EngineError>;

async fn answer(mut generation: Generation) -> Answer {
    let mut tokens = Vec::new();
    while let Some(event) = generation.next().await {
        match event {
            TokenEvent::Token { id, logprob } => tokens.push((id, logprob)),
            TokenEvent::Failed(error) => return Err(error),
            _ => {}
        }
    }
    Ok(tokens)
}

async fn answers(generations: Vec<Generation>) -> Vec<Answer> {
    let mut answers = Vec::new();
    for generation in generations {
        answers.push(answer(generation).await);
    }
    answers
}

async fn check_engine(engine: &EngineHandle) {
    let submit = |requests: Vec<EngineRequest>| -> Vec<Generation> {
        requests.into_iter().map(|request| engine.submit(request).unwrap()).collect()
    };
    let mut alone = Vec::new();
    for request in sound_requests() {
        alone.push(answer(engine.submit(request).unwrap()).await);
    }
    assert!(alone.iter().all(|answer| answer.as_ref().is_ok_and(|tokens| tokens.len() == 40)));

    // The poisoned come into the steps of running streams; what each round leaves in its blocks meets the next one.
    for round in 0..3 {
        let mut sound: Vec<Generation> = submit(sound_requests());
        let poisoned = submit(poisoned_requests());
        sound.extend(submit(sound_requests()));
        for (index, answer) in answers(poisoned).await.into_iter().enumerate() {
            assert_eq!(answer, Err(EngineError::NotFinite), "poisoned request {index}, round {round}");
        }
        for (answer, alone) in answers(sound).await.iter().zip(alone.iter().cycle()) {
            assert_eq!(answer, alone, "round {round}");
        }
        // Answers end before the engine has published the step.
        for _ in 0..1000 {
            if engine.stats().running == 0 && engine.stats().waiting == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
        assert_eq!((engine.stats().running, engine.stats().kv_blocks_used), (0, 0), "{:?}", engine.stats());
    }
    assert_eq!(engine.stats().failed_steps, 0);
    assert!(engine.stats().prefix_hits > 0);
}

async fn check_api(address: SocketAddr) {
    let sound = with(ask("say it"), json!({"temperature": 0, "max_tokens": 8}));
    let before = post(address, CHAT, &sound).await.json()["choices"].clone();
    for token in ["~", "^"] {
        let body = ask(&format!("say {token}"));
        let plain = post(address, CHAT, &body).await;
        let error = &plain.json()["error"];
        assert_eq!(
            (plain.status, &error["code"], &error["type"]),
            (500, &json!("engine_error"), &json!("server_error"))
        );
        assert!(error["message"].as_str().unwrap().contains("not a number"), "{error}");
        let stream = post(address, CHAT, &with(body, json!({"stream": true}))).await;
        let events = stream.events();
        let last: Json = serde_json::from_str(events.last().unwrap()).unwrap();
        assert_eq!((stream.status, &last["error"]), (200, error));
    }
    assert_eq!(post(address, CHAT, &sound).await.json()["choices"], before);
}

#[tokio::test]
async fn a_token_that_is_not_a_number_hurts_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    for ggml_type in [GgmlType::F16, GgmlType::Q8_0] {
        let path = folder.path().join(format!("{}.gguf", ggml_type.name()));
        write_model(&path, ggml_type);
        let model = server(&path).await;
        let (address, engine) = (model.address, &model.engine);
        check_engine(engine).await;
        check_api(address).await;
    }
}

//! Every fuzz body from new seeds each time: a second each here, `FUZZ_SECONDS` in `scripts/test --long`. What is
//! found is written to a file and belongs into the body's corpus, which other tests replay.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use models::random::RandomModel;
use models::{Architecture, Recipe};

fn fuzz(target: &str, body: fn(&[u8]), seeds: &[Vec<u8>]) {
    assert!(!seeds.is_empty());
    let seconds = std::env::var("FUZZ_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(1.0);
    let end = Instant::now() + Duration::from_secs_f64(seconds);
    let mut rng = fastrand::Rng::new();
    while Instant::now() < end {
        let mut case = models::fuzz::mutate(&seeds[rng.usize(..seeds.len())], &mut rng);
        while rng.bool() {
            case = models::fuzz::mutate(&case, &mut rng);
        }
        if catch_unwind(|| body(&case)).is_err() {
            let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{target}-{:016x}", rng.u64(..)));
            std::fs::write(&path, &case).unwrap();
            panic!("{target} panics on {}", path.display());
        }
    }
}

/// The GGUF file and the JSON files of tiny models.
fn model_files() -> [Vec<u8>; 3] {
    let folder = tempfile::tempdir().unwrap();
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Q4KM);
    model.write_gguf(&folder.path().join("model.gguf"), &mut |_| ()).unwrap();
    model.write_safetensors(folder.path(), kernels::GgmlType::F16, 1).unwrap();
    ["model.gguf", "config.json", "tokenizer.json"].map(|name| std::fs::read(folder.path().join(name)).unwrap())
}

#[test]
fn gguf() {
    let [file, ..] = model_files();
    // The tables, without most of the weights.
    fuzz("gguf", models::fuzz::gguf, &[file[..file.len().min(32 << 10)].to_vec(), file]);
}

#[test]
fn safetensors_header() {
    let table =
        br#"{"__metadata__":{"format":"pt"},"model.norm.weight":{"dtype":"F16","shape":[4],"data_offsets":[0,8]},
        "lm_head.weight":{"dtype":"BF16","shape":[2,4],"data_offsets":[8,24]}}"#;
    let mut file = (table.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(table);
    file.extend_from_slice(&[0; 24]);
    fuzz("safetensors_header", models::fuzz::safetensors_header, &[file]);
}

#[test]
fn model_json() {
    let [_, config, tokenizer] = model_files();
    fuzz("config_json", models::fuzz::config_json, &[config]);
    fuzz("tokenizer_json", models::fuzz::tokenizer_json, &[tokenizer]);
}

#[test]
fn tokenizer_metadata() {
    let lines = b"model gpt2\npre llama-bpe\ntoken 1 a\ntoken 1 b\ntoken 1 ab\ntoken 3 <|end|>\nmerge a b\neos 3\nadd_bos 0\n\nab <|end|>";
    fuzz("tokenizer_metadata", steppe::text::fuzz::tokenizer_metadata, &[lines.to_vec()]);
}

#[test]
fn chat_template() {
    let template = b"{% for m in messages %}<|{{ m.role }}|>{{ m['content'] | trim }}{% if loop.last and add_generation_prompt \
        %}<|assistant|>{% endif %}{% endfor %}{{ raise_exception('no') if false }}{{ messages[0].content.split('a')[-1] }}";
    fuzz("chat_template", steppe::text::fuzz::chat_template, &[template.to_vec()]);
}

#[test]
fn request_bodies() {
    let seeds = [
        br#"{"model":"default","messages":[{"role":"user","content":[{"type":"text","text":"hi"}]}],"max_tokens":5,"n":2,
            "stop":["a","b"],"logit_bias":{"12":-100},"stream":true,"stream_options":{"include_usage":true},"seed":1}"#
            .to_vec(),
        br#"{"prompt":[[1,2,3],[4]],"echo":true,"logprobs":2,"temperature":0.5,"top_p":0.9,"user":"x"}"#.to_vec(),
        br#"{"prompt":"hello","max_tokens":16,"content":"text","tokens":[1,2,3],"context":"c"}"#.to_vec(),
    ];
    fuzz("request_body", steppe::server::fuzz::request_body, &seeds);
}

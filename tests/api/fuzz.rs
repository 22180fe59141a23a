//! Request bodies mutated at random, from seeds that reach every field. The same seed gives the same bodies; the long
//! loops are in `tests/fuzz.rs`.

use std::time::{Duration, Instant};

use steppe::server::fuzz::request_body;

const SEEDS: [&str; 8] = [
    r#"{"messages":[{"role":"user","content":"hi"}],"temperature":0.5,"top_p":1,"top_k":40,"n":2,"stop":["a","b"]}"#,
    r#"{"messages":[{"role":"user","content":[{"type":"text","text":"Привет 👋"}],"name":"x"}],"logprobs":true,"top_logprobs":5}"#,
    r#"{"messages":[],"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"1":2.5},"seed":-3,"user":"u"}"#,
    r#"{"prompt":[[1,2],[3]],"echo":true,"logprobs":2,"max_tokens":0,"suffix":null}"#,
    r#"{"prompt":"abc","context":["x","y"],"max_completion_tokens":7,"min_tokens":1,"priority":-1}"#,
    r#"{"content":"text","add_special":true,"with_pieces":false,"tokens":[1,2,3]}"#,
    r#"{"messages":[{"role":"tool","content":"","tool_calls":[{"a":1}]}],"response_format":{"type":"text"}}"#,
    r#"[{"a":{"b":[[[[1e308,-0,"\ud83d\ude00","\u0000"]]]]}}]"#,
];
/// Fragments that parsers trip over.
const PIECES: [&str; 16] = [
    "null",
    "1e999",
    "-1",
    "18446744073709551616",
    "\"\"",
    "{}",
    "[]",
    "true",
    "\\ud800",
    "\\u0000",
    "{\"a\":",
    "[[[[",
    ",",
    "\"messages\":",
    "\"stop\":",
    "0.0000000000000000000001",
];

#[test]
fn mutated_bodies_are_read_or_refused() {
    for seed in SEEDS {
        request_body(seed.as_bytes());
    }
    let mut random = fastrand::Rng::with_seed(20_261_122);
    let until = Instant::now() + Duration::from_secs(2);
    let mut body = Vec::new();
    for round in 0_u64.. {
        if round % 64 == 0 && Instant::now() > until {
            break;
        }
        SEEDS[random.usize(..SEEDS.len())].as_bytes().clone_into(&mut body);
        for _ in 0..random.usize(1..8) {
            mutate(&mut body, &mut random);
        }
        request_body(&body);
    }
}

fn mutate(body: &mut Vec<u8>, random: &mut fastrand::Rng) {
    let at = random.usize(..=body.len());
    match random.u8(..6) {
        0 if at < body.len() => body[at] ^= 1 << random.u8(..8),
        1 => body.truncate(at),
        2 => {
            let piece = PIECES[random.usize(..PIECES.len())];
            body.splice(at..at, piece.bytes());
        }
        3 => {
            let end = random.usize(at..=body.len());
            body.drain(at..end);
        }
        4 => {
            let end = random.usize(at..=body.len());
            let copy = body[at..end].to_vec();
            body.splice(at..at, copy);
        }
        _ => body.insert(at, random.u8(..)),
    }
}

#[test]
fn nesting_and_size_alone_break_nothing() {
    for open in ["[", "{\"a\":", "{\"messages\":["] {
        request_body(open.repeat(200_000).as_bytes());
    }
    request_body(format!("{{\"messages\":\"{}\"}}", "x".repeat(1 << 20)).as_bytes());
    request_body(&[0xff; 4096]);
}

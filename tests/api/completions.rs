//! `/v1/completions`, `/tokenize` and `/detokenize`.

use serde_json::{Value as Json, json};

use crate::harness::Setup;
use crate::http::post;

const COMPLETIONS: &str = "/v1/completions";

fn texts(body: &Json) -> Vec<&str> {
    body["choices"].as_array().unwrap().iter().map(|choice| choice["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_prompt_may_be_text_texts_ids_or_lists_of_ids() {
    let server = Setup::new().completion("ab", "XY").completion("cd", "Z").start().await;
    for (prompt, expected) in [
        (json!("ab"), vec!["XY"]),
        (json!(["ab", "cd"]), vec!["XY", "Z"]),
        (json!([97, 98]), vec!["XY"]),
        (json!([[97, 98], [99, 100]]), vec!["XY", "Z"]),
    ] {
        let body = post(server.address, COMPLETIONS, &json!({"prompt": prompt})).await.json();
        assert_eq!(texts(&body), expected, "{body}");
        assert_eq!(body["object"], "text_completion");
        assert!(body["id"].as_str().unwrap().starts_with("cmpl-"));
    }
    let both = post(server.address, COMPLETIONS, &json!({"prompt": ["ab", "cd"], "n": 2})).await.json();
    assert_eq!(texts(&both), ["XY", "XY", "Z", "Z"]);
    let usage = json!({"prompt_tokens": 4, "completion_tokens": 10, "total_tokens": 14,
                       "prompt_tokens_details": {"cached_tokens": 0}});
    assert_eq!(both["usage"], usage);
}

#[tokio::test]
async fn echo_begins_with_the_prompt_and_its_logprobs() {
    let server = Setup::new().completion("ab", "XY").start().await;
    let body = post(server.address, COMPLETIONS, &json!({"prompt": "ab", "echo": true, "logprobs": 1})).await.json();
    assert_eq!(texts(&body), ["abXY"]);
    let logprobs = &body["choices"][0]["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["a", "b", "X", "Y"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3]));
    assert_eq!(logprobs["token_logprobs"][0], Json::Null);
    assert_eq!(logprobs["top_logprobs"][0], Json::Null);
    assert!(logprobs["token_logprobs"][1].is_number());
    assert!(logprobs["top_logprobs"][2].as_object().unwrap().contains_key("X"));

    let body = json!({"prompt": "ab", "echo": true, "logprobs": 1, "stream": true});
    let chunks = post(server.address, COMPLETIONS, &body).await.chunks();
    let text: String = chunks.iter().map(|chunk| chunk["choices"][0]["text"].as_str().unwrap()).collect();
    assert_eq!(text, "abXY");
    let offsets: Vec<_> = chunks
        .iter()
        .filter_map(|chunk| chunk["choices"][0]["logprobs"]["text_offset"].as_array())
        .flatten()
        .map(|offset| offset.as_u64().unwrap())
        .collect();
    assert_eq!(offsets, [0, 1, 2, 3]);
}

#[tokio::test]
async fn the_prompt_alone_can_be_scored() {
    let server = Setup::new().completion("abc", "XY").start().await;
    let body = json!({"prompt": "abc", "echo": true, "logprobs": 0, "max_tokens": 0});
    let body = post(server.address, COMPLETIONS, &body).await.json();
    assert_eq!(texts(&body), ["abc"]);
    assert_eq!(body["choices"][0]["logprobs"]["tokens"], json!(["a", "b", "c"]));
    assert_eq!(body["choices"][0]["finish_reason"], "length");
    assert_eq!(body["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn a_stream_of_completions_carries_text() {
    let server = Setup::new().completion("ab", "XY").start().await;
    let body = json!({"prompt": "ab", "stream": true, "stream_options": {"include_usage": true}, "echo": true});
    let chunks = post(server.address, COMPLETIONS, &body).await.chunks();
    let text: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, "abXY");
    assert_eq!(chunks.last().unwrap()["usage"]["completion_tokens"], 3);
    assert_eq!(chunks[chunks.len() - 2]["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn tokens_go_there_and_back() {
    let server = Setup::new().start().await;
    let tokens = post(server.address, "/tokenize", &json!({"content": "aя<|im_end|>"})).await.json();
    let ids: Vec<u64> = tokens["tokens"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect();
    assert_eq!(ids.len(), 3 + "<|im_end|>".len(), "a control token in text stays text");
    let text = post(server.address, "/detokenize", &json!({"tokens": ids})).await.json();
    assert_eq!(text, json!({"content": "aя<|im_end|>"}));
    let pieces = post(server.address, "/tokenize", &json!({"content": "aя", "with_pieces": true})).await.json();
    let expected =
        json!({"tokens": [{"id": 97, "piece": "a"}, {"id": 209, "piece": [209]}, {"id": 143, "piece": [143]}]});
    assert_eq!(pieces, expected);
}

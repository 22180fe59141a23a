//! `/v1/chat/completions` and its streams, to the byte.

use std::time::Duration;

use serde_json::{Value as Json, json};
use steppe::manifest::{Manifest, SamplingDefaults};

use crate::harness::{MODEL, Setup, ask, ids, with};
use crate::http::{Reply, post, send};

const CHAT: &str = "/v1/chat/completions";

#[tokio::test]
async fn an_answer_has_openais_shape() {
    let server = Setup::new().chat("hi", "Привет, world").start().await;
    let reply = post(server.address, CHAT, &ask("hi")).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let body = reply.json();
    let id = body["id"].as_str().unwrap();
    assert!(id.starts_with("chatcmpl-") && id.len() == 41, "{id}");
    assert!(body["created"].as_u64().unwrap() > 1_700_000_000);
    let prompt = Setup::new().chat_ids(&[json!({"role": "user", "content": "hi"})]).len();
    let completion = ids("Привет, world").len();
    let expected = json!({
        "id": id, "object": "chat.completion", "created": body["created"], "model": MODEL,
        "system_fingerprint": "fp_test",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "Привет, world", "refusal": null},
            "logprobs": null,
            "finish_reason": "stop",
        }],
        "usage": {
            "prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": 0},
        },
    });
    assert_eq!(body, expected);
    server.becomes_idle().await;
}

#[tokio::test]
async fn a_stream_is_framed_to_the_byte() {
    let server = Setup::new().chat("hi", "ab").start().await;
    let reply = post(server.address, CHAT, &with(ask("hi"), json!({"stream": true}))).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream; charset=utf-8"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    assert_eq!(reply.header("x-queue-position"), Some("0"));
    assert_eq!(reply.header("x-queue-wait-ms"), Some("0"));
    let first: Json = serde_json::from_str(&reply.events()[0]).unwrap();
    let (id, created) = (first["id"].as_str().unwrap(), &first["created"]);
    let head = format!(
        r#"data: {{"id":"{id}","object":"chat.completion.chunk","created":{created},"model":"{MODEL}","system_fingerprint":"fp_test","choices":[{{"index":0,"delta":"#
    );
    let going = r#","logprobs":null,"finish_reason":null}]}"#;
    let ended = r#","logprobs":null,"finish_reason":"stop"}]}"#;
    let expected = format!(
        "{head}{{\"role\":\"assistant\",\"content\":\"\"}}{going}\n\n{head}{{\"content\":\"a\"}}{going}\n\n\
         {head}{{\"content\":\"b\"}}{going}\n\n{head}{{}}{ended}\n\ndata: [DONE]\n\n"
    );
    assert_eq!(reply.text(), expected);
}

#[tokio::test]
async fn usage_comes_last_and_only_when_asked_for() {
    let server = Setup::new().chat("hi", "abc").start().await;
    let body = with(ask("hi"), json!({"stream": true, "stream_options": {"include_usage": true}}));
    let chunks = post(server.address, CHAT, &body).await.chunks();
    let (last, earlier) = chunks.split_last().unwrap();
    assert!(earlier.iter().all(|chunk| chunk.as_object().unwrap().get("usage") == Some(&Json::Null)));
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["completion_tokens"], 4);
    let without = post(server.address, CHAT, &with(ask("hi"), json!({"stream": true}))).await.chunks();
    assert!(without.iter().all(|chunk| !chunk.as_object().unwrap().contains_key("usage")));
}

#[tokio::test]
async fn the_streaming_address_always_streams() {
    let server = Setup::new().chat("hi", "abc").start().await;
    let address = "/v1/chat/completions/stream";
    let reply = post(server.address, address, &ask("hi")).await;
    assert_eq!(streamed(&reply), ("abc".to_owned(), "stop".to_owned()));
    let body = with(ask("hi"), json!({"stream": false, "stream_options": {"include_usage": true}}));
    let last = post(server.address, address, &body).await.chunks().pop().unwrap();
    assert_eq!(last["usage"]["completion_tokens"], 4);
}

/// Text and finish reason of a stream of one choice.
fn streamed(reply: &Reply) -> (String, String) {
    let chunks = reply.chunks();
    let text = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    let finish = chunks.iter().rev().find_map(|chunk| chunk["choices"][0]["finish_reason"].as_str()).unwrap();
    (text, finish.to_owned())
}

#[tokio::test]
async fn a_stop_string_ends_the_answer_across_tokens_and_is_counted_to_its_last_token() {
    let server = Setup::new().chat("hi", "one two STOP three").start().await;
    for stream in [false, true] {
        let fields = json!({"stop": ["STOP", "never"], "stream": stream});
        let mut body = with(ask("hi"), fields);
        if stream {
            body = with(body, json!({"stream_options": {"include_usage": true}}));
        }
        let reply = post(server.address, CHAT, &body).await;
        let (text, finish, usage) = if stream {
            let (text, finish) = streamed(&reply);
            (text, finish, reply.chunks().last().unwrap()["usage"].clone())
        } else {
            let body = reply.json();
            let choice = &body["choices"][0];
            let text = choice["message"]["content"].as_str().unwrap().to_owned();
            (text, choice["finish_reason"].as_str().unwrap().to_owned(), body["usage"].clone())
        };
        assert_eq!((text.as_str(), finish.as_str()), ("one two ", "stop"));
        assert_eq!(usage["completion_tokens"], "one two STOP".len());
    }
    server.becomes_idle().await;
}

#[tokio::test]
async fn max_tokens_ends_with_length_under_both_names() {
    let server = Setup::new().chat("hi", "abcdef").start().await;
    for field in ["max_tokens", "max_completion_tokens"] {
        let body = post(server.address, CHAT, &with(ask("hi"), json!({field: 3}))).await.json();
        assert_eq!(body["choices"][0]["message"]["content"], "abc");
        assert_eq!(body["choices"][0]["finish_reason"], "length");
        assert_eq!(body["usage"]["completion_tokens"], 3);
    }
}

#[tokio::test]
async fn several_choices_share_the_prompt() {
    let server = Setup::new().chat("hi", "abc").start().await;
    let body = post(server.address, CHAT, &with(ask("hi"), json!({"n": 3, "seed": 7}))).await.json();
    let choices = body["choices"].as_array().unwrap();
    assert_eq!(choices.iter().map(|choice| choice["index"].as_u64().unwrap()).collect::<Vec<_>>(), [0, 1, 2]);
    assert!(choices.iter().all(|choice| choice["message"]["content"] == "abc"));
    assert_eq!(body["usage"]["completion_tokens"], 12);
    let prompt = Setup::new().chat_ids(&[json!({"role": "user", "content": "hi"})]).len();
    assert_eq!(body["usage"]["prompt_tokens"], prompt);

    let reply = post(server.address, CHAT, &with(ask("hi"), json!({"n": 2, "stream": true}))).await;
    for index in 0..2 {
        let chunks = reply.chunks();
        let own: Vec<_> = chunks.iter().map(|chunk| &chunk["choices"][0]).filter(|c| c["index"] == index).collect();
        assert_eq!(own[0]["delta"]["role"], "assistant");
        let text: String = own.iter().filter_map(|choice| choice["delta"]["content"].as_str()).collect();
        assert_eq!(text, "abc");
        assert_eq!(own.last().unwrap()["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn logprobs_carry_bytes_and_alternatives() {
    let server = Setup::new().chat("hi", "aя").start().await;
    let body = post(server.address, CHAT, &with(ask("hi"), json!({"logprobs": true, "top_logprobs": 2}))).await.json();
    let content = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(content.len(), 3, "one entry per token, and я is two");
    assert_eq!(content[0]["token"], "a");
    assert_eq!(content[0]["bytes"], json!([97]));
    assert_eq!(content[1]["bytes"], json!(["я".as_bytes()[0]]));
    assert_eq!(content[0]["top_logprobs"].as_array().unwrap().len(), 2);
    assert!(content[0]["logprob"].as_f64().unwrap() <= 0.0);

    let body = with(ask("hi"), json!({"logprobs": true, "stream": true}));
    let chunks = post(server.address, CHAT, &body).await.chunks();
    let told: usize =
        chunks.iter().filter_map(|chunk| chunk["choices"][0]["logprobs"]["content"].as_array()).map(Vec::len).sum();
    assert_eq!(told, 3);
}

#[tokio::test]
async fn nothing_past_a_stop_string_is_told_in_logprobs() {
    let server = Setup::new().chat("hi", "abXYZcd").start().await;
    let body = post(server.address, CHAT, &with(ask("hi"), json!({"logprobs": true, "stop": "XYZ"}))).await.json();
    let content = body["choices"][0]["logprobs"]["content"].as_array().unwrap();
    let tokens: Vec<_> = content.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, ["a", "b"]);
    assert_eq!(body["usage"]["completion_tokens"], 5);
}

#[tokio::test]
async fn parts_names_developer_and_tool_messages_reach_the_template() {
    let setup = Setup::new();
    let rendered = [
        json!({"role": "system", "content": "be kind"}),
        json!({"role": "user", "content": "one two"}),
        json!({"role": "assistant", "content": "ok"}),
        json!({"role": "tool", "content": "42"}),
    ];
    let prompt = setup.chat_ids(&rendered);
    let mut setup = setup;
    setup.mock.replay.insert(prompt, ids("yes"));
    let server = setup.start().await;
    let body = json!({"model": "default", "messages": [
        {"role": "developer", "content": "be kind"},
        {"role": "user", "content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "name": "bob"},
        {"role": "assistant", "content": "ok"},
        {"role": "tool", "content": "42", "tool_call_id": "call_1"},
    ]});
    let answer = post(server.address, CHAT, &body).await.json();
    assert_eq!(answer["choices"][0]["message"]["content"], "yes", "{answer}");
}

#[tokio::test]
async fn unknown_and_newer_fields_are_passed_over_and_null_means_absent() {
    let server = Setup::new().chat("hi", "ok").start().await;
    let fields = json!({
        "made_up": {"deep": [1, 2]}, "prompt_cache_key": "k", "safety_identifier": "s", "service_tier": "auto",
        "verbosity": "low", "store": false, "metadata": {"a": "b"}, "user": "ann", "session_id": null, "tools": null,
        "temperature": null, "stop": null, "response_format": {"type": "text"}, "n": null, "logprobs": null,
        "stream": null, "stream_options": null, "modalities": ["text"], "top_k": -1, "min_p": 0.1, "typical_p": 0.9,
        "repetition_penalty": 1.1, "logit_bias": {"5": -100, "6": 3.5}, "priority": 3, "min_tokens": 1,
    });
    let reply = post(server.address, CHAT, &with(ask("hi"), fields)).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
}

#[tokio::test]
async fn the_manifests_system_prompt_applies_unless_the_request_has_one() {
    let mut setup = Setup::new();
    setup.manifest = Manifest {
        system_prompt: Some("Ты — Сайга".into()),
        sampling: SamplingDefaults { temperature: Some(0.6), ..SamplingDefaults::default() },
        ..Manifest::default()
    };
    let with_manifest =
        setup.chat_ids(&[json!({"role": "system", "content": "Ты — Сайга"}), json!({"role": "user", "content": "hi"})]);
    let with_own =
        setup.chat_ids(&[json!({"role": "system", "content": "mine"}), json!({"role": "user", "content": "hi"})]);
    setup.mock.replay.insert(with_manifest, ids("from the manifest"));
    setup.mock.replay.insert(with_own, ids("from the request"));
    let server = setup.start().await;
    let content = |body: Json| body["choices"][0]["message"]["content"].clone();
    assert_eq!(content(post(server.address, CHAT, &ask("hi")).await.json()), "from the manifest");
    let own = json!({"messages": [{"role": "system", "content": "mine"}, {"role": "user", "content": "hi"}]});
    assert_eq!(content(post(server.address, CHAT, &own).await.json()), "from the request");
}

#[tokio::test]
async fn a_failure_in_mid_stream_is_one_error_event_without_done() {
    let mut setup = Setup::new();
    setup.mock.not_finite_token = Some(u32::from(b'#'));
    let server = setup.start().await;
    let body = with(ask("#"), json!({"stream": true})).to_string();
    let headers = [("content-type", "application/json"), ("accept-language", "ru")];
    let reply = send(server.address, "POST", CHAT, &headers, body.as_bytes()).await;
    assert_eq!(reply.status, 200);
    let events = reply.events();
    let error: Json = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(error["error"]["type"], "server_error");
    assert_eq!(error["error"]["code"], "engine_error");
    assert!(error["error"]["message"].as_str().unwrap().starts_with("Модель не справилась"), "{error}");
    assert_eq!(events.iter().filter(|event| event.contains("\"error\"")).count(), 1);

    let plain = post(server.address, CHAT, &ask("#")).await;
    assert_eq!((plain.status, plain.json()["error"]["code"].as_str()), (500, Some("engine_error")));
    server.becomes_idle().await;
}

#[tokio::test]
async fn silence_is_filled_with_comments() {
    let mut setup = Setup::new().chat("hi", "abc").slow(Duration::from_millis(60));
    setup.keep_alive = Duration::from_millis(10);
    let server = setup.start().await;
    let reply = post(server.address, CHAT, &with(ask("hi"), json!({"stream": true}))).await;
    assert!(reply.text().contains(": keep-alive\n\n"), "{}", reply.text());
    assert_eq!(streamed(&reply).0, "abc");
}

#[tokio::test]
async fn ask_and_generate_answer_in_short() {
    let server = Setup::new().chat("hi", "hello").chat("facts\n\nhi", "by context").start().await;
    let answer = post(server.address, "/ask", &json!({"prompt": "hi"})).await;
    assert_eq!(answer.json(), json!({"response": "hello", "source": "model"}));
    let answer = post(server.address, "/generate", &json!({"prompt": "hi", "context": "facts"})).await.json();
    assert_eq!(answer["response"], "by context");
    assert_eq!(answer["usage"]["completion_tokens"], 11);
    let answer = post(server.address, "/generate", &with(ask("hi"), json!({"max_tokens": 2}))).await.json();
    assert_eq!(answer["response"], "he");
}

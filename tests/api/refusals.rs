//! Every refusal: status, type, code, param and words.

use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::harness::{Setup, ask, with};
use crate::http::{Reply, open, post, send};

const CHAT: &str = "/v1/chat/completions";
const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

#[track_caller]
fn assert_refused(reply: &Reply, status: u16, code: &str, param: Option<&str>) {
    assert_eq!(reply.status, status, "{}", reply.text());
    let body = reply.json();
    let error = body["error"].as_object().unwrap();
    assert_eq!(body.as_object().unwrap().len(), 1);
    let mut keys: Vec<_> = error.keys().map(String::as_str).collect();
    keys.sort_unstable();
    assert_eq!(keys, ["code", "message", "param", "type"]);
    let kind = if status >= 500 { "server_error" } else { "invalid_request_error" };
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some(kind), Some(code)), "{body}");
    assert_eq!(error["param"].as_str(), param, "{body}");
    assert!(!error["message"].as_str().unwrap().is_empty());
}

#[tokio::test]
async fn every_field_is_validated_and_named() {
    let server = Setup::new().start().await;
    let cases = [
        (json!({"temperature": 2.1}), "temperature", "invalid_value"),
        (json!({"temperature": -0.1}), "temperature", "invalid_value"),
        (json!({"temperature": "hot"}), "temperature", "invalid_type"),
        (json!({"temperature": 1e300}), "temperature", "invalid_value"),
        (json!({"top_p": 1.5}), "top_p", "invalid_value"),
        (json!({"top_k": -2}), "top_k", "invalid_value"),
        (json!({"top_k": 1.5}), "top_k", "invalid_type"),
        (json!({"min_p": 2}), "min_p", "invalid_value"),
        (json!({"typical_p": -1}), "typical_p", "invalid_value"),
        (json!({"repetition_penalty": 0}), "repetition_penalty", "invalid_value"),
        (json!({"frequency_penalty": 3}), "frequency_penalty", "invalid_value"),
        (json!({"presence_penalty": -3}), "presence_penalty", "invalid_value"),
        (json!({"max_tokens": 0}), "max_tokens", "invalid_value"),
        (json!({"max_tokens": -1}), "max_tokens", "invalid_type"),
        (json!({"max_tokens": 1.0}), "max_tokens", "invalid_type"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens", "invalid_value"),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_tokens", "invalid_value"),
        (json!({"min_tokens": 9, "max_tokens": 5}), "min_tokens", "invalid_value"),
        (json!({"min_tokens": 65}), "min_tokens", "invalid_value"),
        (json!({"n": 0}), "n", "invalid_value"),
        (json!({"n": 5}), "n", "invalid_value"),
        (json!({"n": 1_000_000}), "n", "invalid_value"),
        (json!({"stop": ""}), "stop", "invalid_value"),
        (json!({"stop": vec!["x"; 17]}), "stop", "invalid_value"),
        (json!({"stop": 5}), "stop", "invalid_type"),
        (json!({"seed": "x"}), "seed", "invalid_type"),
        (json!({"logit_bias": {"x": 1}}), "logit_bias", "invalid_value"),
        (json!({"logit_bias": {"1": 101}}), "logit_bias.1", "invalid_value"),
        (json!({"logit_bias": {"260": 1}}), "logit_bias", "invalid_value"),
        (json!({"logit_bias": [1]}), "logit_bias", "invalid_type"),
        (json!({"logprobs": 3}), "logprobs", "invalid_type"),
        (json!({"top_logprobs": 3}), "top_logprobs", "invalid_value"),
        (json!({"logprobs": true, "top_logprobs": 21}), "top_logprobs", "invalid_value"),
        (json!({"stream": "yes"}), "stream", "invalid_type"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options", "invalid_value"),
        (
            json!({"stream": true, "stream_options": {"include_usage": 1}}),
            "stream_options.include_usage",
            "invalid_type",
        ),
        (json!({"priority": 101}), "priority", "invalid_value"),
        (json!({"ignore_eos": 1}), "ignore_eos", "invalid_type"),
        (json!({"user": 5}), "user", "invalid_type"),
        (json!({"model": 5}), "model", "invalid_type"),
        (json!({"messages": []}), "messages", "invalid_value"),
        (json!({"messages": "hi"}), "messages", "invalid_type"),
        (json!({"messages": [{"content": "hi"}]}), "messages[0].role", "missing_required_parameter"),
        (json!({"messages": [{"role": "user"}]}), "messages[0].content", "missing_required_parameter"),
        (json!({"messages": [{"role": "king", "content": "hi"}]}), "messages[0].role", "invalid_value"),
        (json!({"messages": [{"role": "user", "content": 5}]}), "messages[0].content", "invalid_type"),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
            "messages[0].content[0].type",
            "invalid_value",
        ),
        (
            json!({"messages": [{"role": "user", "content": [{"type": "text"}]}]}),
            "messages[0].content[0].text",
            "missing_required_parameter",
        ),
    ];
    for (fields, param, code) in cases {
        let reply = post(server.address, CHAT, &with(ask("hi"), fields.clone())).await;
        assert_eq!(reply.status, 400, "{fields}: {}", reply.text());
        assert_refused(&reply, 400, code, Some(param));
    }
    let missing = post(server.address, CHAT, &json!({})).await;
    assert_refused(&missing, 400, "missing_required_parameter", Some("messages"));
    server.becomes_idle().await;
}

#[tokio::test]
async fn what_is_not_built_is_refused_by_name() {
    let server = Setup::new().start().await;
    for (param, value) in [
        ("tools", json!([])),
        ("tool_choice", json!("auto")),
        ("parallel_tool_calls", json!(true)),
        ("functions", json!([])),
        ("response_format", json!({"type": "json_object"})),
        ("response_format", json!({"type": "json_schema", "json_schema": {}})),
        ("guided_regex", json!("a+")),
        ("guided_grammar", json!("root ::= x")),
        ("session_id", json!("s1")),
        ("modalities", json!(["text", "audio"])),
    ] {
        let reply = post(server.address, CHAT, &with(ask("hi"), json!({param: value}))).await;
        assert_refused(&reply, 400, "unsupported_parameter", Some(param));
    }
    for param in ["suffix", "best_of"] {
        let reply = post(server.address, "/v1/completions", &json!({"prompt": "a", param: 2})).await;
        assert_refused(&reply, 400, "unsupported_parameter", Some(param));
    }
}

#[tokio::test]
async fn prompts_of_completions_are_validated() {
    let server = Setup::new().start().await;
    for (body, code) in [
        (json!({}), "missing_required_parameter"),
        (json!({"prompt": 5}), "invalid_type"),
        (json!({"prompt": []}), "invalid_value"),
        (json!({"prompt": ""}), "invalid_value"),
        (json!({"prompt": [[]]}), "invalid_value"),
        (json!({"prompt": [260]}), "invalid_value"),
        (json!({"prompt": [1, "a"]}), "invalid_type"),
        (json!({"prompt": ["a", "b", "c", "d", "e"]}), "invalid_value"),
    ] {
        assert_refused(&post(server.address, "/v1/completions", &body).await, 400, code, Some("prompt"));
    }
    let zero = json!({"prompt": "a", "max_tokens": 0});
    assert_refused(&post(server.address, "/v1/completions", &zero).await, 400, "invalid_value", Some("max_tokens"));
}

#[tokio::test]
async fn a_context_overflow_says_exact_counts() {
    let setup = Setup::new();
    let prompt = setup.chat_ids(&[json!({"role": "user", "content": "hi"})]).len();
    let server = setup.start().await;
    let room = 512 - prompt;
    let fits = post(server.address, CHAT, &with(ask("hi"), json!({"max_tokens": room, "stop": "\u{1}"}))).await;
    assert_eq!(fits.status, 200);
    let reply = post(server.address, CHAT, &with(ask("hi"), json!({"max_tokens": room + 1}))).await;
    assert_refused(&reply, 400, "context_length_exceeded", Some("messages"));
    let body = reply.json();
    let message = body["error"]["message"].as_str().unwrap();
    for count in [512, 513, prompt, room + 1] {
        assert!(message.contains(&count.to_string()), "{count} in {message}");
    }
    let long = json!({"prompt": "x".repeat(600)});
    let reply = post(server.address, "/v1/completions", &long).await;
    assert_refused(&reply, 400, "context_length_exceeded", Some("prompt"));
    let huge = json!({"prompt": "x", "max_tokens": u64::MAX});
    assert_refused(
        &post(server.address, "/v1/completions", &huge).await,
        400,
        "context_length_exceeded",
        Some("prompt"),
    );
}

#[tokio::test]
async fn bodies_that_are_no_json_are_refused_clearly() {
    let server = Setup::new().start().await;
    let deep = format!("{{\"messages\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let deep_unknown = format!("{{\"x\": {}{}}}", "[".repeat(5000), "]".repeat(5000));
    let cases: [(&[u8], u16, &str, Option<&str>); 9] = [
        (b"", 400, "invalid_json", None),
        (b"{", 400, "invalid_json", None),
        (b"{} x", 400, "invalid_json", None),
        (b"\xff\xfe{}", 400, "invalid_json", None),
        (b"[]", 400, "invalid_type", None),
        (b"null", 400, "invalid_type", None),
        (deep.as_bytes(), 400, "invalid_json", None),
        (deep_unknown.as_bytes(), 400, "invalid_json", None),
        (b"{\"messages\": [], \"messages\": []}", 400, "invalid_type", None),
    ];
    for (body, status, code, param) in cases {
        let reply = send(server.address, "POST", CHAT, &JSON, body).await;
        assert_refused(&reply, status, code, param);
    }
    let repeated = br#"{"messages": [{"role": "user", "role": "system", "content": "x"}]}"#;
    let reply = send(server.address, "POST", CHAT, &JSON, repeated).await;
    assert_refused(&reply, 400, "invalid_type", Some("messages[0]"));
}

#[tokio::test]
async fn size_type_and_coding_have_statuses_of_their_own() {
    let server = Setup::new().start().await;
    let large = format!("{{\"x\": \"{}\"}}", "y".repeat(70 * 1024));
    let reply = send(server.address, "POST", CHAT, &JSON, large.as_bytes()).await;
    assert_refused(&reply, 413, "request_too_large", None);
    let reply = send(server.address, "POST", CHAT, &[("content-type", "text/plain")], b"{}").await;
    assert_refused(&reply, 415, "unsupported_media_type", None);
    let gzip = [JSON[0], ("content-encoding", "gzip")];
    let reply = send(server.address, "POST", CHAT, &gzip, b"{}").await;
    assert_refused(&reply, 415, "unsupported_media_type", None);
    let charset = [("content-type", "application/json; charset=utf-8")];
    let body = ask("hi").to_string();
    assert_eq!(send(server.address, "POST", CHAT, &charset, body.as_bytes()).await.status, 200);
}

#[tokio::test]
async fn addresses_methods_and_models_that_do_not_exist() {
    let server = Setup::new().start().await;
    assert_refused(&send(server.address, "GET", "/nowhere", &[], b"").await, 404, "not_found", None);
    assert_refused(&send(server.address, "GET", CHAT, &[], b"").await, 405, "method_not_allowed", None);
    assert_refused(&send(server.address, "DELETE", "/v1/models", &[], b"").await, 405, "method_not_allowed", None);
    let reply = post(server.address, CHAT, &with(ask("hi"), json!({"model": "gpt-4"}))).await;
    assert_refused(&reply, 404, "model_not_found", Some("model"));
    assert_refused(
        &send(server.address, "GET", "/v1/models/a/b:c", &[], b"").await,
        404,
        "model_not_found",
        Some("model"),
    );
}

#[tokio::test]
async fn outside_v1_bad_bodies_are_422() {
    let server = Setup::new().start().await;
    for (path, body, code, param) in [
        ("/ask", json!({}), "missing_required_parameter", "prompt"),
        ("/ask", json!({"prompt": "x", "max_tokens": 0}), "invalid_value", "max_tokens"),
        ("/ask", json!({"prompt": "x".repeat(600)}), "context_length_exceeded", "prompt"),
        ("/ask", json!({"prompt": "x", "session_id": "s"}), "unsupported_parameter", "session_id"),
        ("/generate", json!({}), "missing_required_parameter", "prompt"),
        ("/generate", json!({"prompt": "x", "messages": []}), "invalid_value", "prompt"),
        ("/generate", json!({"prompt": "x", "stream": true}), "unsupported_parameter", "stream"),
        ("/generate", json!({"prompt": "x", "temperature": 9}), "invalid_value", "temperature"),
    ] {
        assert_refused(&post(server.address, path, &body).await, 422, code, Some(param));
    }
    assert_refused(&send(server.address, "POST", "/ask", &JSON, b"{").await, 422, "invalid_json", None);
}

#[tokio::test]
async fn messages_follow_the_language_and_codes_do_not() {
    let server = Setup::new().start().await;
    let body = with(ask("hi"), json!({"temperature": 9})).to_string();
    for (language, expected) in [
        ("ru", "Поле `temperature` должно быть от 0 до 2."),
        ("en;q=0.5, ru-RU;q=0.9", "Поле `temperature` должно быть от 0 до 2."),
        ("ru;q=0.2, en", "`temperature` must be from 0 to 2."),
        ("de", "`temperature` must be from 0 to 2."),
    ] {
        let headers = [JSON[0], ("accept-language", language)];
        let reply = send(server.address, "POST", CHAT, &headers, body.as_bytes()).await;
        assert_refused(&reply, 400, "invalid_value", Some("temperature"));
        assert_eq!(reply.json()["error"]["message"], expected, "{language}");
    }
}

#[tokio::test]
async fn wrong_types_are_told_in_both_languages() {
    let server = Setup::new().start().await;
    let field = |fields: Json| with(ask("hi"), fields).to_string();
    let cases = [
        (field(json!({"temperature": "hot, expected"})), "a number, not a string", "числом, а не строкой"),
        (field(json!({"max_tokens": -1})), "a whole number from 0 on, not -1", "целым числом не меньше 0, а не -1"),
        (field(json!({"max_tokens": 1.5})), "from 0 on, not 1.5", "целым числом не меньше 0, а не 1.5"),
        (field(json!({"seed": true})), "a whole number, not true", "целым числом, а не true"),
        (field(json!({"stream": "yes"})), "true or false, not a string", "true или false, а не строкой"),
        (field(json!({"user": {}})), "a string, not an object", "строкой, а не объектом"),
        (field(json!({"logit_bias": [1]})), "an object, not a list", "объектом, а не списком"),
        (field(json!({"messages": 5})), "a list, not 5", "списком, а не 5"),
        (field(json!({"messages": [null]})), "an object, not null", "объектом, а не null"),
        (field(json!({"stop": 5})), "a string or a list of strings", "строкой или списком строк"),
        (
            field(json!({"messages": [{"role": "user", "content": 5}]})),
            "a string or a list of parts with `type` and `text`",
            "строкой или списком частей с полями `type` и `text`",
        ),
        ("[]".into(), "`body` must be an object, not a list", "Поле `body` должно быть объектом, а не списком"),
        (r#"{"n": 1, "n": 2}"#.into(), "`body` has the key `n` twice", "В поле `body` дважды есть ключ `n`"),
        ("{\n \"n\": x}".into(), "expected value at line 2 column 7", "не JSON: ошибка в строке 2, столбце 7"),
    ];
    for (body, english, russian) in cases {
        for (language, expected) in [("en", english), ("ru", russian)] {
            let headers = [JSON[0], ("accept-language", language)];
            let reply = send(server.address, "POST", CHAT, &headers, body.as_bytes()).await;
            let message = reply.json()["error"]["message"].as_str().unwrap().to_owned();
            assert_eq!(reply.status, 400);
            assert!(message.ends_with(&format!("{expected}.")), "{body}: {message}");
            let latin = message.replace("JSON", "").replace("true или false", "");
            let quoted = latin.split('`').step_by(2).collect::<String>();
            let english_left =
                quoted.split(' ').any(|word| word.len() > 4 && word.chars().all(|c| c.is_ascii_alphabetic()));
            assert!(language == "en" || !english_left, "{message}");
        }
    }
    let prompt =
        send(server.address, "POST", "/v1/completions", &[JSON[0], ("accept-language", "ru")], br#"{"prompt": 5}"#);
    let message = prompt.await.json()["error"]["message"].clone();
    assert_eq!(
        message,
        "Поле `prompt` должно быть строкой, списком строк, списком номеров токенов или списком таких списков."
    );
}

#[tokio::test]
async fn a_full_queue_is_503_with_a_time_to_come_back() {
    let mut setup = Setup::new().slow(Duration::from_millis(20));
    setup.options.max_sequences = 1;
    setup.options.queue_capacity = 1;
    let server = setup.start().await;
    let long = with(ask("hi"), json!({"max_tokens": 400, "ignore_eos": true, "stream": true})).to_string();
    let running = open(server.address, "POST", CHAT, &JSON, long.as_bytes()).await;
    server.runs(1).await;
    let waiting = open(server.address, "POST", CHAT, &JSON, long.as_bytes()).await;
    while server.engine.stats().waiting == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for stream in [false, true] {
        let reply = post(server.address, CHAT, &with(ask("hi"), json!({"stream": stream}))).await;
        assert_refused(&reply, 503, "server_is_overloaded", None);
        let seconds: u64 = reply.header("retry-after").unwrap().parse().unwrap();
        let millis: u64 = reply.header("retry-after-ms").unwrap().parse().unwrap();
        assert!(seconds >= 1 && millis >= 100 && millis <= seconds * 1000);
    }
    drop((running, waiting));
    server.becomes_idle().await;
}

#[tokio::test]
async fn an_answer_that_takes_too_long_is_408_and_not_to_be_retried() {
    let mut setup = Setup::new().slow(Duration::from_millis(20));
    setup.timeout = Duration::from_millis(100);
    let server = setup.start().await;
    let body = with(ask("hi"), json!({"max_tokens": 400, "ignore_eos": true}));
    let reply = post(server.address, CHAT, &body).await;
    assert_refused(&reply, 408, "timeout", None);
    assert_eq!(reply.header("x-should-retry"), Some("false"));
    let events = post(server.address, CHAT, &with(body, json!({"stream": true}))).await.events();
    let last: Json = serde_json::from_str(events.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "timeout", "{last}");
    server.becomes_idle().await;
}

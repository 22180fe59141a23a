//! Rendered prompts equal those of transformers (tests/fixtures/prompts.json, written by scripts/golden-text), and
//! templates that misbehave end in one error.

use serde_json::{Value, json};
use steppe::text::{ChatTemplate, Conversation, TextError, Tokenizer};

use crate::fixtures::{demo_model, demo_tokenizer, from_gguf, from_json, golden, published};

fn conversation(case: &Value) -> Conversation {
    Conversation {
        messages: case["messages"].as_array().unwrap().clone(),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap(),
        variables: case["variables"].as_object().unwrap().clone(),
    }
}

fn published_template(name: &str) -> String {
    let config = std::fs::read(published(name, "tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    config["chat_template"].as_str().unwrap().to_owned()
}

fn own_template(name: &str) -> String {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/templates");
    std::fs::read_to_string(folder.join(name).with_extension("jinja")).unwrap()
}

/// Renders every golden case of `name`; returns how many there were.
fn assert_golden(name: &str, source: &str, tokenizer: &Tokenizer) -> usize {
    let template = ChatTemplate::new(source, tokenizer).unwrap();
    let golden = golden("prompts.json");
    let cases: Vec<&Value> = golden.as_array().unwrap().iter().filter(|case| case["template"] == name).collect();
    for case in &cases {
        match (template.render(&conversation(case)), case["rendered"].as_str()) {
            (Ok(prompt), Some(expected)) => {
                assert_eq!(prompt.text(), expected, "{name}: {case}");
                if let Some(ids) = case["ids"].as_array() {
                    assert_eq!(json!(tokenizer.encode_prompt(&prompt).unwrap()), json!(ids), "{name}: {expected}");
                }
            }
            (Err(TextError::Render(message)), None) => {
                assert!(message.starts_with(case["error"].as_str().unwrap()), "{message}");
            }
            (ours, theirs) => panic!("{name}: {ours:?} is not {theirs:?}"),
        }
    }
    cases.len()
}

#[test]
fn demo_model_prompts_equal_transformers() {
    let (file, tokenizer) = (demo_model(), demo_tokenizer());
    assert_eq!(assert_golden("smollm2", file.chat_template().unwrap(), &tokenizer), 10);
}

#[test]
fn llama3_prompts_equal_transformers() {
    assert_eq!(assert_golden("llama3", &published_template("llama3"), &from_gguf("llama3")), 10);
}

#[test]
fn qwen3_prompts_equal_transformers() {
    assert_eq!(assert_golden("qwen3", &published_template("qwen3"), &from_json("qwen3")), 10);
}

#[test]
fn llama2_mistral_and_odd_prompts_equal_transformers() {
    let tokenizer = from_json("llama2");
    for name in ["llama2", "mistral", "odds"] {
        assert_eq!(assert_golden(name, &own_template(name), &tokenizer), 10);
    }
}

#[test]
fn named_templates_are_those_of_the_models() {
    let messages = vec![
        json!({"role": "system", "content": " Be brief. "}),
        json!({"role": "user", "content": "Hi\n"}),
        json!({"role": "assistant", "content": "Hello"}),
        json!({"role": "user", "content": "Bye"}),
    ];
    let conversation = Conversation { messages, add_generation_prompt: true, ..Conversation::default() };
    let (llama3, demo) = (from_gguf("llama3"), demo_tokenizer());
    let text = |template: &ChatTemplate| template.render(&conversation).unwrap().text();
    let published = ChatTemplate::new(&published_template("llama3"), &llama3).unwrap();
    assert_eq!(text(&ChatTemplate::select(None, None, &llama3).unwrap()), text(&published));
    let in_file = ChatTemplate::new(demo_model().chat_template().unwrap(), &demo).unwrap();
    for chatml in [ChatTemplate::select(None, None, &demo), ChatTemplate::select(Some("chatml"), Some("x"), &demo)] {
        assert_eq!(text(&chatml.unwrap()), text(&in_file));
    }
    assert!(matches!(ChatTemplate::select(Some("vicuna"), None, &demo), Err(TextError::Template(_))));
    let llama2 = from_json("llama2");
    assert!(matches!(ChatTemplate::select(None, None, &llama2), Err(TextError::Template(_))));
}

#[test]
fn templates_that_misbehave_end_in_one_error() {
    let tokenizer = demo_tokenizer();
    let hi = Conversation { messages: vec![json!({"role": "user", "content": "Hi"})], ..Conversation::default() };
    let refused = [
        "{{ raise_exception('No.') }}",
        "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
        "{% for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
        "{% macro again() %}{{ again() }}{% endmacro %}{{ again() }}",
        "{{ messages[0].content.nothing() }}",
        "{{ messages[7].content.x }}",
        "{{ 1 / 0 }}",
        "{% include 'chat' %}",
        "{{ range(1000000000) | list }}",
        "{{ 'x' * 100000000000 }}",
        // minijinja 3.0.5 itself panics here.
        "{{ ''[::-1] }}",
        "{% for message in [][::-1] %}{% endfor %}",
    ];
    for source in refused {
        let template = ChatTemplate::new(source, &tokenizer).unwrap();
        let result = template.render(&hi);
        assert!(matches!(result, Err(TextError::Render(_))), "{source}: {result:?}");
    }
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(50_000), ")".repeat(50_000));
    let blocks = "{% if 1 %}".repeat(50_000);
    let long = "x".repeat(2 << 20);
    for source in ["{% for %}", "{{", "{% if x %}", "{% unknown_tag %}", &nested, &blocks, &long] {
        let result = ChatTemplate::new(source, &tokenizer);
        assert!(matches!(result, Err(TextError::Template(_))), "{source:.60}");
    }
}

#[test]
fn objects_keep_the_order_in_which_they_were_written() {
    let source = "{% for key in tool %}{{ key }} {% endfor %}{{ tool | tojson }}";
    let variables = serde_json::from_str(r#"{"tool": {"type": "b", "name": {"z": 1, "a": 2}}}"#).unwrap();
    let template = ChatTemplate::new(source, &demo_tokenizer()).unwrap();
    let text = template.render(&Conversation { variables, ..Conversation::default() }).unwrap().text();
    assert_eq!(text, r#"type name {"type": "b", "name": {"z": 1, "a": 2}}"#);
}

#[test]
fn templates_may_ask_for_the_date() {
    let template = ChatTemplate::new("{{ strftime_now('%Y-%m-%d %B %A %%') }}", &demo_tokenizer()).unwrap();
    let text = template.render(&Conversation::default()).unwrap().text();
    assert!(
        text.starts_with("20") && text.ends_with(" %") && text.len() > "2026-01-01 May Friday %".len() - 2,
        "{text}"
    );
    assert!(
        ChatTemplate::new("{{ strftime_now('%d %b %Y') }}", &demo_tokenizer())
            .unwrap()
            .render(&Conversation::default())
            .is_ok()
    );
}

#[test]
fn ids_that_end_an_answer() {
    let (llama3, demo) = (from_gguf("llama3"), demo_tokenizer());
    let template = ChatTemplate::select(None, None, &llama3).unwrap();
    assert_eq!(template.end_ids(&[128_001], &llama3), [128_001, 128_009]);
    let file = demo_model();
    let template = ChatTemplate::new(file.chat_template().unwrap(), &demo).unwrap();
    let ends = template.end_ids(&file.end_ids(), &demo);
    assert!(ends.contains(&demo.special_id("<|im_end|>").unwrap()), "{ends:?}");
    assert!(ends.iter().all(|&id| demo.is_special(id)));
}

//! What is checked while a model loads, and what of it a client meets.

use std::path::Path;

use kernels::GgmlType;
use models::random::RandomModel;
use models::{Architecture, Recipe};
use serde_json::{Value as Json, json};

use crate::harness::{ServedModel, ask, serve_model};
use crate::http::post;

/// Tokens that the tiny model has.
const ROWS: u32 = 288;

/// A safetensors directory whose tokenizer has one token more than the model has rows.
fn write_model(path: &Path, token: &str, is_control: bool) {
    let model = RandomModel::tiny(Architecture::Llama, Recipe::Uniform(GgmlType::F16));
    model.write_safetensors(path, GgmlType::F16, 1).unwrap();
    let edit = |name: &str, change: &dyn Fn(&mut Json)| {
        let mut json: Json = serde_json::from_slice(&std::fs::read(path.join(name)).unwrap()).unwrap();
        change(&mut json);
        std::fs::write(path.join(name), json.to_string()).unwrap();
    };
    let added = json!({"id": ROWS, "content": token, "special": is_control, "normalized": false, "single_word": false,
        "lstrip": false, "rstrip": false});
    edit("tokenizer.json", &|json| json["added_tokens"].as_array_mut().unwrap().push(added.clone()));
    let template = format!("{{{{ messages[0].content }}}}{{% if messages | length > 1 %}}{token}{{% endif %}}");
    edit("tokenizer_config.json", &|json| json["chat_template"] = template.clone().into());
}

async fn open(path: &Path) -> anyhow::Result<ServedModel> {
    serve_model(&[("model.path", path.to_str().unwrap()), ("engine.kv_cache_mib", "1")]).await
}

#[tokio::test]
async fn a_tokenizer_with_more_words_than_the_model_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), "wörd", false);
    let error = format!("{:#}", open(folder.path()).await.err().unwrap());
    assert!(error.contains("not this model's") && error.contains("288") && error.contains("wörd"), "{error}");
}

#[tokio::test]
async fn a_control_token_that_the_model_lacks_is_refused_in_prompts_only() {
    let folder = tempfile::tempdir().unwrap();
    write_model(folder.path(), "<pad>", true);
    let model = open(folder.path()).await.unwrap();
    let address = model.address;
    let status = |body: Json| async move {
        let reply = post(address, "/v1/chat/completions", &body).await;
        (reply.status, reply.json()["error"]["param"].clone())
    };
    assert_eq!(status(ask("a <pad> that a user writes")).await, (200, Json::Null));
    let two = json!({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]});
    assert_eq!(status(two).await, (400, json!("messages")));
    let prompt = json!({"prompt": [1, ROWS]});
    let reply = post(address, "/v1/completions", &prompt).await;
    assert_eq!((reply.status, reply.json()["error"]["param"].clone()), (400, json!("prompt")));
}

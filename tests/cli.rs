//! The subcommands that work on model files, as their user sees them: the real program, real files, its exit status.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

/// Runs the program in `directory`, where `weights/` is its library, in English.
fn steppe(directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_steppe")).current_dir(directory).env("LANG", "C").args(arguments).output().unwrap()
}

fn out(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn error(output: &Output) -> String {
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    assert!(output.stdout.is_empty(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&out(output)).unwrap()
}

#[test]
fn a_made_model_is_imported_listed_and_inspected() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    out(&steppe(here, &["make-model", "disk.gguf", "--layers", "3", "--type", "q8_0"]));

    let text = out(&steppe(here, &["import", "disk.gguf", "--manifest", "saiga_llama3_8b"]));
    assert!(text.contains("steppe serve --model saiga_llama3_8b"), "{text}");
    assert!(here.join("disk.gguf").exists() && here.join("weights/saiga_llama3_8b.gguf").exists());
    let manifest = std::fs::read_to_string(here.join("weights/saiga_llama3_8b.toml")).unwrap();
    assert!(manifest.contains("Ты — Сайга") && manifest.contains("sha256 = "), "{manifest}");

    let models = json(&steppe(here, &["models", "--json"]));
    assert_eq!(models["models"][0]["name"], "saiga_llama3_8b");
    assert_eq!(models["models"][0]["manifest"], true);
    assert_eq!(models["can_be_pulled"], serde_json::json!(["saiga_llama3_8b-safetensors"]));
    assert!(out(&steppe(here, &["models"])).contains("saiga_llama3_8b  Llama"));

    let model = json(&steppe(here, &["inspect", "saiga_llama3_8b", "--json"]));
    assert_eq!((&model["layers"], &model["format"]), (&3.into(), &"GGUF v3".into()));
    assert_eq!(model["tokenizer"]["model"], "gpt2");
    let bytes = |tensor: &Value| tensor["bytes"].as_u64().unwrap();
    let total: u64 = model["tensor_list"].as_array().unwrap().iter().map(bytes).sum();
    assert_eq!(model["tensor_bytes"], total);
    let last = model["memory"].as_array().unwrap().last().unwrap();
    assert_eq!(last["context"], model["max_context"]);
    // Keys and values, f16: layers x 2 x kv_heads x head_dim x context x 2 bytes.
    assert_eq!(last["kv_bytes"], 3 * 2 * 2 * 32 * 512 * 2);
    let text = out(&steppe(here, &["inspect", "weights/saiga_llama3_8b.gguf", "--tensors", "--lang", "ru"]));
    assert!(text.contains("архитектура") && text.contains("blk.2.ffn_down.weight"), "{text}");
}

#[test]
fn a_made_model_has_the_tokenizer_that_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let published = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/.fixtures/llama2/tokenizer.json");
    out(&steppe(here, &["make-model", "made.gguf", "--tokenizer", published]));
    out(&steppe(here, &["make-model", "made", "--safetensors", "--tokenizer", published]));
    let inspected = |name| json(&steppe(here, &["inspect", name, "--json"]));
    assert_eq!(inspected("made.gguf")["tokenizer"]["model"], "llama");
    assert_eq!(inspected("made")["vocab_size"], inspected("made.gguf")["vocab_size"]);
    let bytes = |path: &Path| std::fs::read(path).unwrap();
    assert_eq!(bytes(&here.join("made/tokenizer.json")), bytes(Path::new(published)));
    assert!(error(&steppe(here, &["make-model", "x", "--tokenizer", "absent.json"])).contains("absent.json"));
}

#[test]
fn import_never_replaces_and_never_installs_what_cannot_be_opened() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    out(&steppe(here, &["make-model", "a.gguf"]));
    out(&steppe(here, &["import", "a.gguf"]));
    assert!(error(&steppe(here, &["import", "a.gguf"])).contains("--force"));
    out(&steppe(here, &["import", "a.gguf", "--name", "b", "--move"]));
    assert!(!here.join("a.gguf").exists() && here.join("weights/b.gguf").exists());

    let bytes = std::fs::read(here.join("weights/b.gguf")).unwrap();
    std::fs::write(here.join("cut.gguf"), &bytes[..bytes.len() - 64]).unwrap();
    let text = error(&steppe(here, &["import", "cut.gguf"]));
    assert!(text.contains("cut.gguf"), "{text}");
    assert!(!here.join("weights/cut.gguf").exists() && !here.join("weights/cut.toml").exists());
    assert!(error(&steppe(here, &["import", "absent.gguf"])).contains("absent.gguf"));

    // A manifest that states another hash came with other bytes.
    std::fs::write(here.join("c.toml"), format!("name = \"c\"\nsha256 = \"{}\"", "0".repeat(64))).unwrap();
    std::fs::write(here.join("c.gguf"), &bytes).unwrap();
    assert!(error(&steppe(here, &["import", "c.gguf"])).contains("SHA-256"));
    let left: Vec<_> = std::fs::read_dir(here.join("weights")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 4, "only a and b with their manifests: {left:?}");
}

#[test]
fn a_safetensors_directory_is_imported_with_the_hash_of_every_file() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    out(&steppe(here, &["make-model", "source", "--safetensors", "--architecture", "qwen3"]));
    out(&steppe(here, &["import", "source", "--name", "mine"]));
    let manifest = std::fs::read_to_string(here.join("weights/mine.toml")).unwrap();
    assert!(manifest.contains("\"config.json\" = ") && manifest.contains(".safetensors\" = "), "{manifest}");
    assert_eq!(json(&steppe(here, &["inspect", "mine", "--json"]))["architecture"], "Qwen3");
}

#[test]
fn a_safetensors_directory_is_quantised() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    out(&steppe(here, &["make-model", "source", "--safetensors"]));
    assert!(error(&steppe(here, &["quantize", "source", "--type", "q4_9"])).contains("q4_k_m"));
    out(&steppe(here, &["quantize", "source", "--type", "q8_0"]));
    let types = json(&steppe(here, &["inspect", "source.Q8_0.gguf", "--json"]))["types"].clone();
    assert!(types["Q8_0"]["tensors"].as_u64() > Some(10), "{types}");
    assert!(error(&steppe(here, &["quantize", "source", "--type", "q8_0"])).contains("--force"));
    out(&steppe(here, &["quantize", "source", "--type", "q4_k_m", "-o", "small.gguf"]));
    let size = |name: &str| std::fs::metadata(here.join(name)).unwrap().len();
    assert!(size("small.gguf") < size("source.Q8_0.gguf"));
}

#[test]
fn damaged_models_are_listed_with_the_reason_and_missing_ones_with_what_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    std::fs::create_dir(here.join("weights")).unwrap();
    std::fs::write(here.join("weights/noise.gguf"), b"GGUF\x03\0\0\0").unwrap();
    assert!(out(&steppe(here, &["models"])).contains("noise  damaged: weights/noise.gguf"));
    assert!(error(&steppe(here, &["inspect", "other"])).contains("there are: noise"));
    assert!(error(&steppe(here, &["inspect", "noise"])).contains("noise.gguf"));
}

#[test]
fn users_keys_and_secrets_are_told_of_in_both_languages() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    let both =
        |arguments: &[&str]| [arguments, &[arguments, &["--lang", "ru"]].concat()].map(|all| out(&steppe(here, all)));
    out(&steppe(here, &["user", "add", "maria"]));
    let limits = ["--requests-per-hour", "9", "--tokens-per-minute", "8", "--parallel-requests", "7"];
    out(&steppe(here, &[&["key", "create", "maria", "--days", "1"][..], &limits].concat()));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stored = runtime.block_on(async {
        let store = steppe::store::Store::sqlite(&here.join("data/steppe.db")).await.unwrap();
        let maria = store.user_named("maria").await.unwrap().unwrap();
        let keys = store.api_keys_of(&maria.id).await.unwrap();
        store.close().await;
        keys[0].limits.clone()
    });
    let stored: Value = serde_json::from_str(&stored).unwrap();
    for (limit, value) in [("requests_per_hour", 9), ("tokens_per_minute", 8), ("parallel_requests", 7)] {
        assert_eq!(stored[limit], value, "{stored}");
    }
    let [english, russian] = both(&["user", "passwd", "maria"]);
    assert!(english.starts_with("password of maria: ") && russian.starts_with("пароль maria: "), "{english}{russian}");
    let [english, russian] = both(&["secret", "rotate", "key-pepper"]);
    assert!(english.contains("generation 2; restart") && russian.contains("поколение 3"), "{english}{russian}");
    out(&steppe(here, &["user", "disable", "maria"]));
    let [english, russian] = both(&["user", "list"]);
    assert!(english.contains(" disabled") && russian.contains(" отключён"), "{english}{russian}");
    out(&steppe(here, &["user", "enable", "maria"]));
    assert!(!out(&steppe(here, &["user", "list"])).contains(" disabled"));
    let id = out(&steppe(here, &["key", "list", "maria"])).split(' ').next().unwrap().to_owned();
    out(&steppe(here, &["key", "revoke", "maria", &id]));
    let [english, russian] = both(&["key", "list", "maria"]);
    assert!(english.contains("not good any more") && russian.contains("уже не годится"), "{english}{russian}");
}

#[test]
fn changes_of_users_and_keys_are_in_the_audit_log_which_can_be_proven() {
    let folder = tempfile::tempdir().unwrap();
    let here = folder.path();
    assert!(out(&steppe(here, &["audit", "verify"])).contains("there are no rows"));
    let password = out(&steppe(here, &["user", "add", "maria", "--department", "Accounting"]));
    let key = out(&steppe(here, &["key", "create", "maria", "--name", "лэптоп"]));
    let listed = out(&steppe(here, &["key", "list", "maria"]));
    let id = listed.split(' ').next().unwrap();
    out(&steppe(here, &["user", "list"]));
    out(&steppe(here, &["key", "revoke", "maria", id]));
    let passwd = out(&steppe(here, &["user", "passwd", "maria"]));
    out(&steppe(here, &["user", "disable", "maria"]));
    error(&steppe(here, &["user", "disable", "nobody"]));

    let exported = out(&steppe(here, &["audit", "export"]));
    let events: Vec<Value> = exported.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["user add", "key create", "key revoke", "user passwd", "user disable"]);
    for event in &events {
        let actor = event["actor"].as_str().unwrap();
        assert!(actor.strip_prefix("cli:").is_some_and(|name| !name.is_empty()), "{actor}");
        assert_eq!((&event["kind"], &event["credential"]), (&"admin".into(), &"shell".into()));
    }
    assert_eq!((&events[0]["details"]["username"], &events[1]["details"]["name"]), (&"maria".into(), &"лэптоп".into()));
    assert_eq!((&events[1]["object"], &events[2]["object"]), (&events[2]["object"], &format!("key:{id}").into()));
    let last_word = |text: &str| text.split_whitespace().last().unwrap().to_owned();
    for secret in [last_word(&password), last_word(&key), last_word(&passwd)] {
        assert!(secret.len() >= 20 && !exported.contains(&secret), "{secret}");
    }
    let syslog = out(&steppe(here, &["audit", "export", "--format", "syslog", "--from", "2020-01-01"]));
    assert!(syslog.lines().count() == 5 && syslog.lines().all(|line| line.starts_with("<110>1 20")), "{syslog}");
    assert_eq!(out(&steppe(here, &["audit", "export", "--to", "2020-01-01"])), "");
    assert!(error(&steppe(here, &["audit", "export", "--to", "x"])).contains("2026-01-31T15:00:00Z"));

    let told = out(&steppe(here, &["audit", "verify"]));
    assert!(told.starts_with("5 rows, 1 to 5, from 20"), "{told}");
    let anchor = told.lines().find_map(|line| line.strip_prefix("--anchor ")).unwrap().split(' ').next().unwrap();
    out(&steppe(here, &["audit", "verify", "--anchor", anchor, "--lang", "ru"]));
    let other = anchor.replace("5:", "4:");
    assert!(error(&steppe(here, &["audit", "verify", "--anchor", &other])).contains("row 4 is not the one"));

    // The database is a file that somebody else can write to, too.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let store = steppe::store::Store::sqlite(&here.join("data/steppe.db")).await.unwrap();
        let change = steppe::store::Write::new((), |connection, ()| {
            Box::pin(async move {
                sqlx::query("UPDATE audit SET actor = 'cli:nobody' WHERE seq = 3").execute(connection).await?;
                Ok(())
            })
        });
        store.write_apart(change).await.unwrap();
        store.close().await;
    });
    assert!(error(&steppe(here, &["audit", "verify"])).contains("row 3 was changed"));
}

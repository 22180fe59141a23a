//! The configuration's layers, and that config.toml tells the truth.

use std::fs;
use std::path::PathBuf;

use secrecy::ExposeSecret as _;
use steppe::config::{RawConfig, Sources, load};

fn pairs(given: &[(&str, &str)]) -> Vec<(String, String)> {
    given.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("steppe.toml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

#[test]
fn config_toml_documents_every_key_with_its_default() {
    let text = include_str!("../../config.toml");
    let written: toml::Table = text.parse().unwrap();
    let defaults = toml::Table::try_from(RawConfig::default()).unwrap();
    assert_eq!(written, defaults);
    let mut commented = false;
    for line in text.lines() {
        assert!(!line.contains(" = ") || line.starts_with('#') || commented || line.starts_with("port"), "{line}");
        commented = line.starts_with('#');
    }
}

#[test]
fn flags_beat_environment_beats_file_beats_defaults() {
    let (_folder, path) = file("[server]\nport = 1\nhost = \"127.0.0.2\"\n[engine]\nthreads = 3\n");
    let sources = Sources {
        file: Some(path.clone()),
        environment: pairs(&[
            ("STEPPE_SERVER_PORT", "2"),
            ("PORT", "3"),
            ("STEPPE_MODEL_ALIASES", "a, b"),
            ("OTHER", "x"),
        ]),
        flags: vec![("--port".into(), "server.port".into(), "4".into())],
    };
    let loaded = load(&sources).unwrap();
    assert_eq!(loaded.config.server.address.to_string(), "127.0.0.2:4");
    assert_eq!(loaded.config.engine.threads, Some(3));
    assert_eq!(loaded.config.model.aliases, ["a", "b"]);
    let origin = |key: &str| loaded.provenance.iter().find(|row| row.0 == key).unwrap().2.clone();
    assert_eq!(origin("server.port"), "flag --port");
    assert!(origin("server.host").ends_with("steppe.toml"));
    assert_eq!(origin("model.aliases"), "environment variable STEPPE_MODEL_ALIASES");
    assert_eq!(origin("engine.max_queue"), "default");
    assert_eq!(
        loaded.provenance.len(),
        toml::Table::try_from(RawConfig::default())
            .unwrap()
            .values()
            .map(|section| section.as_table().unwrap().len())
            .sum::<usize>()
    );
}

#[test]
fn the_file_may_be_named_by_the_environment() {
    let (_folder, path) = file("[server]\nport = 77\n");
    let environment = pairs(&[("STEPPE_CONFIG", path.to_str().unwrap())]);
    let loaded = load(&Sources { environment, ..Sources::default() }).unwrap();
    assert_eq!(loaded.config.server.address.port(), 77);
}

#[test]
fn plain_variables_and_the_data_directory() {
    let environment = pairs(&[
        ("HOST", "0.0.0.0"),
        ("PORT", "81"),
        ("LOG_LEVEL", "debug"),
        ("STEPPE_DATA_DIR", "/srv"),
        ("STEPPE_TELEMETRY_LOG_FILE", "steppe.log"),
        // What Kubernetes sets for a service called steppe.
        ("STEPPE_PORT", "tcp://10.0.0.1:8000"),
        ("STEPPE_SERVICE_HOST", "10.0.0.1"),
        ("STEPPE_PORT_8000_TCP_ADDR", "10.0.0.1"),
    ]);
    let (_folder, path) = file("");
    let config = load(&Sources { file: Some(path), environment, flags: Vec::new() }).unwrap().config;
    assert_eq!(config.server.address.to_string(), "0.0.0.0:81");
    assert_eq!(config.telemetry.log_level, "debug");
    assert_eq!(config.telemetry.log_file, Some(PathBuf::from("/srv/steppe.log")));
}

#[test]
fn a_prefix_and_its_text_are_two_words() {
    let (_folder, path) = file("");
    let config = |settings: &[(&str, &str)]| {
        load(&Sources { file: Some(path.clone()), environment: pairs(settings), flags: Vec::new() }).unwrap().config
    };
    assert!(config(&[("STEPPE_EMBEDDINGS_QUERY_PREFIX", "query:")]).embeddings.is_none(), "there is no model");
    for (written, read) in [("query: ", "query: "), ("query:", "query: "), (" ", "")] {
        let settings = [("STEPPE_EMBEDDINGS_MODEL", "e5"), ("STEPPE_EMBEDDINGS_QUERY_PREFIX", written)];
        let embeddings = config(&settings).embeddings.unwrap();
        assert_eq!((embeddings.model, &*embeddings.query_prefix), (PathBuf::from("e5"), read));
    }
}

#[test]
fn mistakes_name_the_key_and_its_place() {
    for (text, expected) in [
        ("[server]\nprot = 1\n", vec!["`server.prot`", "steppe.toml", "port"]),
        ("[sever]\nport = 1\n", vec!["`sever`", "steppe.toml", "server"]),
        ("server = 1\n", vec!["`server`", "[server]"]),
        ("[server]\nport = \"x\"\n", vec!["server.port", "steppe.toml"]),
        ("[server]\nport = 70000\n", vec!["server.port"]),
        ("[server\n", vec!["steppe.toml"]),
        ("[server]\nreceive_seconds = 0\n", vec!["`server.receive_seconds`", "1 to"]),
        ("[engine]\nmax_sequences = 0\n", vec!["`engine.max_sequences`", "steppe.toml", "1 to"]),
        ("[engine]\nmax_batch_tokens = 64\n", vec!["`engine.max_batch_tokens`", "engine.max_sequences"]),
        ("[engine]\ndevice = \"cuda:x\"\n", vec!["`engine.device`", "cuda:x"]),
        ("[engine]\ninstruction_set = \"mmx\"\n", vec!["`engine.instruction_set`", "mmx"]),
        ("[engine]\nkv_cache_type = \"q4\"\n", vec!["`engine.kv_cache_type`", "q4", "f16 or q8"]),
        ("[telemetry]\nlog_format = \"xml\"\n", vec!["`telemetry.log_format`", "xml"]),
        ("[server]\nhost = \"no such host!\"\n", vec!["`server.host`"]),
    ] {
        let (_folder, path) = file(text);
        let error = load(&Sources { file: Some(path), ..Sources::default() }).unwrap_err().to_string();
        for word in expected {
            assert!(error.contains(word), "{word} in: {error}");
        }
    }
    let (_folder, path) = file("");
    for (name, value) in [("STEPPE_SERVER_PROT", "1"), ("STEPPE_SERVER_PORT", "x"), ("PORT", "-1"), ("STEPPE_X", "1")] {
        let sources = Sources { file: Some(path.clone()), environment: pairs(&[(name, value)]), flags: Vec::new() };
        let error = load(&sources).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
    let nowhere = Sources { file: Some("/no/such.toml".into()), ..Sources::default() };
    assert!(load(&nowhere).unwrap_err().to_string().contains("/no/such.toml"));
}

#[test]
fn env_example_is_taken_as_it_stands_and_lists_every_plain_variable() {
    let text = include_str!("../../env.example");
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let environment: Vec<_> =
        lines.map(|line| line.split_once('=').unwrap()).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let names: Vec<String> = environment.iter().map(|(name, _)| name.clone()).collect();
    let (_folder, path) = file("");
    let loaded = load(&Sources { file: Some(path), environment, flags: Vec::new() }).unwrap();
    let origins: Vec<_> = loaded.provenance.iter().map(|row| row.2.as_str()).collect();
    for name in &names {
        assert!(origins.contains(&format!("environment variable {name}").as_str()), "{name} sets nothing");
    }
    let mut listed = names.clone();
    listed.sort();
    assert_eq!(listed, steppe::config::plain_variables().map(str::to_owned).collect::<Vec<_>>());
}

/// Each variable with a value that is not the default, and what it needs beside it.
#[test]
fn every_plain_variable_changes_what_the_server_does() {
    let secret = "0f9c6a4b1d2e3f50718293a4b5c6d7e8";
    let langfuse = "LANGFUSE_ENABLED=true LANGFUSE_HOST=http://l LANGFUSE_PUBLIC_KEY=p LANGFUSE_SECRET_KEY=s";
    let cases = [
        ("ALLOWED_HOSTS", "a.example", ""),
        ("BILLING_CURRENCY", "EUR", ""),
        ("BILLING_DEFAULT_BALANCE", "7.5", "BILLING_ENABLED=true"),
        ("BILLING_ENABLED", "true", ""),
        ("CIRCUIT_BREAKER_ENABLED", "false", ""),
        ("CIRCUIT_BREAKER_FAILURE_THRESHOLD", "9", ""),
        ("CIRCUIT_BREAKER_RECOVERY_TIMEOUT", "9", ""),
        ("CORS_ORIGINS", "https://a.example", ""),
        ("DATABASE_URL", "postgres://u:p@db/steppe", ""),
        ("DEBUG", "true", ""),
        ("ENVIRONMENT", "staging", ""),
        ("HOST", "127.0.0.2", ""),
        ("INTERNAL_API_KEY", secret, ""),
        ("JWT_ACCESS_TOKEN_EXPIRE_MINUTES", "9", ""),
        ("JWT_ALGORITHM", "HS256", "JWT_SECRET_KEY=0f9c6a4b1d2e3f50718293a4b5c6d7e9"),
        ("JWT_SECRET_KEY", secret, ""),
        ("LANGFUSE_ENABLED", "false", langfuse),
        ("LANGFUSE_HOST", "http://other", langfuse),
        ("LANGFUSE_PUBLIC_KEY", "other", langfuse),
        ("LANGFUSE_SECRET_KEY", "other", langfuse),
        ("LOG_LEVEL", "warn", ""),
        ("PORT", "9", ""),
        ("PROMETHEUS_ENABLED", "false", ""),
        ("RATE_LIMIT_REQUESTS_PER_HOUR", "9", ""),
        ("RATE_LIMIT_REQUESTS_PER_MINUTE", "9", ""),
        ("RATE_LIMIT_STORAGE", "memory", ""),
        ("REDIS_DB", "9", "REDIS_HOST=r"),
        ("REDIS_HOST", "r", ""),
        ("REDIS_PORT", "9", "REDIS_HOST=r"),
        ("REDIS_URL", "redis://r", ""),
        ("RETRY_BASE_DELAY", "0.9", ""),
        ("RETRY_ENABLED", "false", ""),
        ("RETRY_MAX_ATTEMPTS", "9", ""),
        ("RETRY_MAX_DELAY", "9", ""),
        ("SENTRY_DSN", "https://k@s.example/1", ""),
    ];
    let (_folder, path) = file("");
    let resolved = |environment: &[(&str, &str)]| {
        let sources = Sources { file: Some(path.clone()), environment: pairs(environment), flags: Vec::new() };
        let config = load(&sources).unwrap().config;
        let redis = config.redis.as_ref().map(|redis| redis.url.expose_secret().to_owned());
        let headers = config.telemetry.otlp.iter().flat_map(|otlp| &otlp.headers);
        let headers: Vec<String> = headers.map(|(_, value)| value.expose_secret().to_owned()).collect();
        format!("{config:?} {redis:?} {headers:?}")
    };
    for (name, value, beside) in cases {
        let mut environment: Vec<_> = beside.split_whitespace().map(|pair| pair.split_once('=').unwrap()).collect();
        let before = resolved(&environment);
        environment.retain(|(known, _)| *known != name);
        environment.push((name, value));
        // An algorithm that is the one of the secret anyway changes nothing but what is allowed.
        assert!(resolved(&environment) != before || name == "JWT_ALGORITHM", "{name}={value} has no effect");
    }
    assert!(
        cases.map(|(name, ..)| name).into_iter().eq(steppe::config::plain_variables()),
        "one of them is not tested"
    );
}

#[test]
fn secrets_are_judged_and_never_shown() {
    let (_folder, path) = file("");
    let config = |environment: &[(&str, &str)]| {
        load(&Sources { file: Some(path.clone()), environment: pairs(environment), flags: Vec::new() })
    };
    let good = "0f9c6a4b1d2e3f50718293a4b5c6d7e8";
    for (variables, word) in [
        (vec![("JWT_SECRET_KEY", "short")], "openssl rand"),
        (vec![("JWT_SECRET_KEY", "your-secret-key-change-in-production")], "placeholder"),
        (vec![("JWT_SECRET_KEY", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")], "placeholder"),
        (vec![("JWT_ALGORITHM", "HS256")], "auth.jwt_secret"),
        (vec![("JWT_ALGORITHM", "none")], "EdDSA"),
        (vec![("HOST", "0.0.0.0"), ("INTERNAL_API_KEY", "short")], "openssl rand"),
        (vec![("HOST", "0.0.0.0"), ("STEPPE_AUTH_REQUIRED", "false")], "auth.required"),
        (vec![("DATABASE_URL", "mysql://x")], "store.url"),
    ] {
        let error = config(&variables).unwrap_err().to_string();
        assert!(error.contains(word), "{word} in: {error}");
    }
    let url = "postgres://steppe:hunter2@db/steppe";
    let loaded = config(&[("JWT_SECRET_KEY", good), ("INTERNAL_API_KEY", "short"), ("DATABASE_URL", url)]).unwrap();
    let shown = format!("{:?} {:?}", loaded.config, loaded.provenance);
    for secret in [good, "\"short\"", "hunter2"] {
        assert!(!shown.contains(secret), "{secret} is shown");
    }
    assert!(loaded.config.auth.jwt_secret.is_some() && loaded.config.auth.internal_key.is_some());
}

#[test]
fn lists_are_taken_with_commas_and_as_json() {
    let (_folder, path) = file("");
    for text in ["https://a.example, https://b.example", r#"["https://a.example", "https://b.example"]"#] {
        let environment = pairs(&[("CORS_ORIGINS", text)]);
        let loaded = load(&Sources { file: Some(path.clone()), environment, flags: Vec::new() }).unwrap();
        assert_eq!(loaded.config.server.cors_origins, ["https://a.example", "https://b.example"]);
        let environment = pairs(&[("ALLOWED_HOSTS", &text.replace("https://", ""))]);
        let loaded = load(&Sources { file: Some(path.clone()), environment, flags: Vec::new() }).unwrap();
        assert_eq!(loaded.config.server.allowed_hosts, ["a.example", "b.example"]);
    }
}

//! The audit log over the API: what is written down of whom, at which level, who may read it, and that no secret is ever in it
//! or in the program's own log.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use steppe::auth::Scope;
use steppe::startup::{self, Report};

use crate::access::{INTERNAL, bearer, call, key, post, serve};
use crate::harness::{MODEL, Setup, TestServer, ask, config, with};
use crate::http::{get, send};
use crate::process::Served;

const CHAT: &str = "/v1/chat/completions";
const PATIENCE: Duration = Duration::from_secs(30);

/// All events so far but the first, which says that the server has started.
async fn events(server: &TestServer, query: &str) -> Vec<Json> {
    assert!(server.state.gate.audit.flush(PATIENCE).await);
    let admin = bearer(&key(&server.state.auth, "root", &[Scope::Admin]).await);
    let reply = call(server.address, "GET", &format!("/admin/audit?limit=1000{query}"), admin, &json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let page = reply.json();
    assert_eq!((page["object"].as_str(), &page["next"]), (Some("list"), &Json::Null));
    let data = page["data"].as_array().unwrap();
    if query.is_empty() {
        assert_eq!(
            (&data[0]["seq"], &data[0]["action"], &data[0]["kind"]),
            (&json!(1), &json!("start"), &json!("system"))
        );
        return data[1..].to_vec();
    }
    data.clone()
}

fn short(event: &Json) -> [&str; 5] {
    ["kind", "actor", "credential", "action", "outcome"].map(|name| event[name].as_str().unwrap())
}

#[tokio::test]
async fn requests_are_written_down_when_they_end() {
    let mut setup = Setup::new().chat("hi", "abc");
    setup.settings = vec![("billing.enabled", "true"), ("billing.output_price", "2"), ("billing.default_balance", "9")];
    let server = serve(setup).await;
    let auth = &server.state.auth;
    let ann = bearer(&key(auth, "ann", &[]).await);
    let id = auth.find_user("ann").await.unwrap().id;
    let key_id = auth.store().api_keys_of(&id).await.unwrap().remove(0).id;
    let cached = with(ask("hi"), json!({"temperature": 0}));
    let first = post(server.address, CHAT, ann.clone(), &cached).await;
    let second = post(server.address, CHAT, ann.clone(), &with(cached, json!({"stream": true}))).await;
    let third = post(server.address, "/ask", ann, &json!({"prompt": "other", "max_tokens": 3})).await;
    for reply in [&first, &second, &third] {
        assert_eq!(reply.status, 200, "{}", reply.text());
    }
    let service = Some(("x-internal-auth", INTERNAL.to_owned()));
    let acted = post(server.address, CHAT, service, &with(ask("hi"), json!({"user_id": id}))).await;
    assert_eq!(acted.status, 200, "{}", acted.text());
    let mut events = events(&server, "").await;
    let acted = events.pop().unwrap();
    assert_eq!((&acted["credential"], &acted["object"]), (&json!("internal"), &json!(format!("user:{id}"))));
    assert_eq!(events.len(), 3);
    for (event, reply) in events.iter().zip([&first, &second, &third]) {
        let route = if event["seq"] == 4 { "POST /ask" } else { "POST /v1/chat/completions" };
        assert_eq!(short(event), ["request", "ann", "key", route, "completed"]);
        assert_eq!((&event["actor_id"], &event["key_id"]), (&json!(id), &json!(key_id)));
        assert_eq!((&event["address"], &event["model"]), (&json!("127.0.0.1"), &json!(MODEL)));
        let own_id = reply.header("x-steppe-request-id").unwrap();
        assert_eq!(format!("req_{}", event["request_id"].as_str().unwrap()), own_id);
        assert!(event["details"].get("prompt").is_none() && event["details"].get("answers").is_none());
    }
    let (run, hit) = (&events[0]["details"], &events[1]["details"]);
    assert_eq!((&run["cache"], &run["completion_tokens"], &run["cost"]), (&json!("miss"), &json!(4), &json!(8000)));
    assert_eq!(run["prompt_tokens"], first.json()["usage"]["prompt_tokens"]);
    assert!(run["first_token_ms"].is_u64() && run["queue_wait_ms"].is_u64() && run["duration_ms"].is_u64());
    assert_eq!((&hit["cache"], &hit["cost"], &hit["first_token_ms"]), (&json!("hit"), &json!(0), &Json::Null));
    assert!(get(server.address, "/metrics").await.status == 401);
}

#[tokio::test]
async fn levels_say_how_much_of_the_text_is_kept() {
    for (level, prompts, answers) in [("metadata", false, false), ("request", true, false), ("full", true, true)] {
        let mut setup = Setup::new().chat("hi", "abc").completion("xy", "zz");
        setup.settings = vec![("audit.level", level)];
        let server = serve(setup).await;
        let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
        let cached = with(ask("hi"), json!({"temperature": 0}));
        for body in [&cached, &with(cached.clone(), json!({"stream": true})), &with(cached.clone(), json!({"n": 2}))] {
            assert_eq!(post(server.address, CHAT, ann.clone(), body).await.status, 200);
        }
        let text = json!({"prompt": ["xy", "xy"]});
        assert_eq!(post(server.address, "/v1/completions", ann, &text).await.status, 200);
        let told: Vec<Json> = events(&server, "").await.into_iter().map(|event| event["details"].clone()).collect();
        let chat = json!([[{"role": "user", "content": "hi"}]]);
        let expected = [
            (&chat, json!(["abc"])),
            (&chat, json!(["abc"])),
            (&chat, json!(["abc", "abc"])),
            (&json!(["xy", "xy"]), json!(["zz", "zz"])),
        ];
        assert_eq!(told.len(), expected.len());
        for (told, (prompt, answer)) in told.iter().zip(&expected) {
            assert_eq!(told.get("prompt"), prompts.then_some(*prompt), "{level}");
            assert_eq!(told.get("answers"), answers.then_some(answer), "{level}");
        }
    }
}

#[tokio::test]
async fn logins_refusals_and_changes_are_written_down() {
    let mut setup = Setup::new().chat("hi", "abc");
    setup.settings = vec![("limits.key_requests_per_minute", "1")];
    let server = serve(setup).await;
    let (auth, address) = (&server.state.auth, server.address);
    let login = async |name: &str, password: &str| {
        post(address, "/token", None, &json!({"username": name, "password": password})).await
    };
    let tokens = login("root", "correct horse").await.json();
    login("ann", "wrong horse").await;
    login("what was meant as a password", "x").await;
    post(address, "/token/refresh", None, &json!({"refresh_token": tokens["refresh_token"]})).await;
    let ann = bearer(&key(auth, "ann", &[]).await);
    assert_eq!(post(address, CHAT, ann.clone(), &ask("hi")).await.status, 200);
    assert_eq!(post(address, CHAT, ann.clone(), &ask("hi")).await.status, 429);
    assert_eq!(call(address, "GET", "/admin/users", ann, &json!({})).await.status, 403);
    assert_eq!(get(address, "/v1/models").await.status, 401);
    let root = bearer(tokens["access_token"].as_str().unwrap());
    let admin = async |method: &str, path: &str, body: Json| {
        let reply = call(address, method, path, root.clone(), &body).await;
        assert!(matches!(reply.status, 200..=299 | 409), "{method} {path}: {}", reply.text());
        if reply.body.is_empty() { Json::Null } else { reply.json() }
    };
    let user = admin("POST", "/admin/users", json!({"username": "мария", "password": "a fine password"})).await;
    let path = format!("/admin/users/{}", user["id"].as_str().unwrap());
    admin("POST", "/admin/users", json!({"username": "мария"})).await;
    admin("PATCH", &path, json!({"password": "another password", "disabled": true})).await;
    let made = admin("POST", &format!("{path}/keys"), json!({"name": "бот"})).await;
    admin("DELETE", &format!("{path}/keys/{}", made["id"].as_str().unwrap()), json!({})).await;
    admin("POST", &format!("{path}/topups"), json!({"amount": 2.5, "reason": "salary"})).await;
    let budget = json!({"subject": "user", "subject_id": "u", "period": "day", "unit": "tokens", "limit": 5});
    admin("PUT", "/admin/budgets", budget).await;
    admin("DELETE", "/admin/budgets/user:u/day/tokens", json!({})).await;
    admin("POST", "/admin/cache/purge", json!({})).await;
    admin("GET", "/admin/users", json!({})).await;

    let events = events(&server, "").await;
    let told: Vec<[&str; 5]> = events.iter().map(short).collect();
    let change = |action, outcome| ["admin", "root", "token", action, outcome];
    let expected = [
        ["login", "root", "password", "POST /token", "done"],
        ["login", "ann", "", "POST /token", "failed"],
        ["login", "", "", "POST /token", "failed"],
        ["login", "root", "refresh token", "POST /token/refresh", "done"],
        ["request", "ann", "key", "POST /v1/chat/completions", "completed"],
        ["refusal", "ann", "key", "POST /v1/chat/completions", "refused"],
        ["refusal", "ann", "key", "GET /admin/users", "refused"],
        ["refusal", "", "", "GET /v1/models", "refused"],
        change("POST /admin/users", "done"),
        change("POST /admin/users", "failed"),
        change("PATCH /admin/users/{id}", "done"),
        change("POST /admin/users/{id}/keys", "done"),
        change("DELETE /admin/users/{id}/keys/{key}", "done"),
        change("POST /admin/users/{id}/topups", "done"),
        change("PUT /admin/budgets", "done"),
        change("DELETE /admin/budgets/{*id}", "done"),
        change("POST /admin/cache/purge", "done"),
    ];
    assert_eq!(told, expected);
    let object = format!("user:{}", user["id"].as_str().unwrap());
    for index in [8, 10, 13] {
        assert_eq!(events[index]["object"], object);
    }
    let codes: Vec<_> =
        [5, 6, 7, 9].map(|index| (&events[index]["details"]["status"], &events[index]["details"]["code"])).into();
    let code = |status: u16, code: &str| (json!(status), json!(code));
    let expected = [
        code(429, "rate_limit_exceeded"),
        code(403, "not_allowed"),
        code(401, "invalid_api_key"),
        code(409, "already_exists"),
    ];
    assert_eq!(codes, expected.iter().map(|(status, code)| (status, code)).collect::<Vec<_>>());
    let details = &events[10]["details"];
    assert_eq!((&details["password_changed"], &details["disabled"]), (&json!(true), &json!(true)));
    assert_eq!(events[11]["object"], format!("key:{}", made["id"].as_str().unwrap()));
    assert_eq!((&events[13]["details"]["amount"], &events[13]["details"]["reason"]), (&json!(2.5), &json!("salary")));
    let text = serde_json::to_string(&events).unwrap();
    for secret in ["what was meant", "horse", "a fine password", "another password", made["key"].as_str().unwrap()] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[tokio::test]
async fn events_are_chosen_by_time_user_and_place() {
    let server = serve(Setup::new().chat("hi", "abc")).await;
    let (auth, address) = (&server.state.auth, server.address);
    for user in ["ann", "root", "ann"] {
        let key = bearer(&key(auth, user, &[Scope::Generate]).await);
        assert_eq!(post(address, CHAT, key, &ask("hi")).await.status, 200);
    }
    let seqs = async |query: &str| {
        events(&server, query).await.iter().map(|event| event["seq"].as_i64().unwrap()).collect::<Vec<_>>()
    };
    let ann = auth.find_user("ann").await.unwrap().id;
    assert_eq!(seqs("&user=ann").await, [2, 4]);
    assert_eq!(seqs(&format!("&user={ann}&after=2")).await, [4]);
    assert_eq!(seqs("&user=nobody").await, [0; 0]);
    assert_eq!(seqs("&from=2020-01-01&to=2999-12-31T23:59:59.999Z").await, [1, 2, 3, 4]);
    assert_eq!(seqs("&from=2999-01-01").await, [0; 0]);
    assert_eq!(seqs("&to=2020-01-01").await, [0; 0]);
    let admin = bearer(&key(auth, "root", &[Scope::Admin]).await);
    let page = call(address, "GET", "/admin/audit?limit=2&after=1", admin.clone(), &json!({})).await.json();
    assert_eq!((page["data"].as_array().unwrap().len(), &page["next"]), (2, &json!(3)));
    for (query, param) in [
        ("from=yesterday", "from"),
        ("to=2026-02-30", "to"),
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "query"),
    ] {
        let reply = call(address, "GET", &format!("/admin/audit?{query}"), admin.clone(), &json!({})).await;
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some(param)), "{query}");
    }
}

async fn execute(server: &TestServer, statement: &'static str) {
    let store = server.state.auth.store();
    let change = steppe::store::Write::new(statement, |connection, statement| {
        Box::pin(async move {
            sqlx::query(*statement).execute(connection).await?;
            Ok(())
        })
    });
    store.write_apart(change).await.unwrap();
}

#[tokio::test]
async fn nothing_is_done_that_cannot_be_written_down_where_it_must_be() {
    for required in ["false", "true"] {
        let mut setup = Setup::new().chat("hi", "abc");
        setup.settings = vec![("audit.required", required)];
        let server = serve(setup).await;
        let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
        let status = async || post(server.address, CHAT, ann.clone(), &ask("hi")).await;
        assert_eq!(status().await.status, 200);
        assert!(server.state.gate.audit.flush(PATIENCE).await);
        execute(&server, "ALTER TABLE audit RENAME TO elsewhere").await;
        assert_eq!(status().await.status, 200, "nobody knows yet");
        if required == "true" {
            let begin = Instant::now();
            let refused = loop {
                let reply = status().await;
                if reply.status != 200 {
                    break reply;
                }
                assert!(begin.elapsed() < PATIENCE);
            };
            assert_eq!((refused.status, refused.header("retry-after")), (503, Some("5")));
            assert_eq!(refused.json()["error"]["code"], "audit_unavailable");
            assert_eq!(get(server.address, "/health").await.status, 200);
            let login = post(server.address, "/token", None, &json!({"username": "ann", "password": "x"})).await;
            assert_eq!((login.status, login.json()["error"].as_str()), (503, Some("temporarily_unavailable")));
        }
        execute(&server, "ALTER TABLE elsewhere RENAME TO audit").await;
        assert!(server.state.gate.audit.flush(PATIENCE).await);
        assert_eq!(status().await.status, 200);
        let told = events(&server, "").await;
        assert!(
            told.len() >= 3 && told.iter().all(|event| event["kind"] == "request" || event["action"] == "POST /token"),
            "{told:?}"
        );
        server.state.gate.audit.log().unwrap().verify(None).await.unwrap();
        server.state.read_engine();
        let metrics = server.state.metrics.render();
        assert!(metrics.contains(&format!("audit_events_total {}", told.len() + 1)), "{metrics}");
        assert!(metrics.contains("audit_events_lost_total 0"), "{metrics}");
    }
}

/// Set for the process that is the server: where its data is.
const SERVES: &str = "STEPPE_SERVICE_OF_THE_AUDIT_TEST";

/// The other process; in the tests' own it does nothing.
#[test]
fn serve_and_log() -> anyhow::Result<()> {
    let Some(folder) = std::env::var_os(SERVES) else { return Ok(()) };
    let settings = [
        ("auth.required", "true"),
        ("auth.internal_key", INTERNAL),
        ("audit.level", "full"),
        ("audit.file", "audit.jsonl"),
        ("telemetry.log_level", "steppe=trace,debug"),
        ("telemetry.log_file", "steppe.log"),
        ("telemetry.log_format", "text"),
    ];
    let config = config(Path::new(&folder), &settings);
    let setup = Setup::new().chat("hi", "abc");
    startup::serve_with(config, Report::default(), async |_, _, metrics, _| Ok(setup.generator(&metrics)))
}

#[tokio::test]
async fn no_secret_reaches_a_log_and_nothing_breaks_its_lines() {
    let folder = tempfile::tempdir().unwrap();
    let server = Served::start("audit::serve_and_log", SERVES, folder.path()).await;
    let (address, said) = (server.address, server.said.clone());
    let first_key = std::fs::read_to_string(folder.path().join("first-key")).unwrap().trim().to_owned();
    // The password stands in the line that names the first user.
    let word =
        |line: &str| line.split(|c: char| !c.is_ascii_alphanumeric()).find(|word| word.len() == 20).map(str::to_owned);
    let password = said.lines().find_map(word).unwrap_or_else(|| panic!("no password in {said}"));

    let body = json!({"username": "admin", "password": password});
    let tokens = post(address, "/token", None, &body).await.json();
    let text = |tokens: &Json, name: &str| tokens[name].as_str().unwrap_or_else(|| panic!("{tokens}")).to_owned();
    let (access, refresh) = (text(&tokens, "access_token"), text(&tokens, "refresh_token"));
    let admin = bearer(&access);
    let renewed = post(address, "/token/refresh", None, &json!({"refresh_token": refresh})).await.json();
    let made = post(address, "/admin/users/admin/keys", admin.clone(), &json!({"name": "x\n2026 forged"})).await.json();
    let own_key = text(&made, "key");
    let own =
        post(address, "/admin/users", admin.clone(), &json!({"username": "ann", "password": "a chosen password"}))
            .await;
    assert_eq!(own.status, 201, "{}", own.text());
    for credential in [&first_key, &own_key, &access] {
        assert_eq!(post(address, CHAT, bearer(credential), &ask("hi")).await.status, 200);
    }
    let wrong = "sk-wrongwrongwrongwrong";
    assert_eq!(post(address, CHAT, bearer(wrong), &ask("hi")).await.status, 401);
    assert_eq!(post(address, CHAT, Some(("x-internal-auth", INTERNAL.into())), &ask("hi")).await.status, 200);
    let wrong_password = json!({"username": "admin", "password": "an incorrect password"});
    assert_eq!(post(address, "/token", None, &wrong_password).await.status, 400);
    let mistaken = json!({"username": "a password in the wrong field", "password": "x"});
    assert_eq!(post(address, "/token", None, &mistaken).await.status, 400);
    for path in ["/a%0ab", "/\u{7f}\u{85}\u{2028}x", "/admin/users/x%0A%1b%5B2J", "/v1/models/%00"] {
        send(address, "DELETE", path, &[("authorization", &format!("Bearer {access}"))], b"").await;
    }
    // A secret in a query is not of the path.
    get(address, &format!("/health?key={first_key}")).await;
    assert_eq!(post(address, "/token/revoke", None, &json!({"token": access})).await.status, 200);
    assert!(server.terminate().await.success());

    let log = std::fs::read_to_string(folder.path().join("steppe.log")).unwrap();
    let audit = std::fs::read_to_string(folder.path().join("audit.jsonl")).unwrap();
    let secrets = [
        password.as_str(),
        &first_key,
        &access,
        &refresh,
        &text(&renewed, "access_token"),
        &text(&renewed, "refresh_token"),
        &own_key,
        wrong,
        INTERNAL,
        "a chosen password",
        "an incorrect password",
        "a password in the wrong field",
    ];
    for (name, text) in [("log", &log), ("audit log", &audit)] {
        assert!(text.lines().count() > 10, "{text}");
        for secret in secrets {
            assert!(!text.contains(secret), "{secret} is in the {name}");
        }
        for line in text.split_terminator('\n') {
            assert!(!line.contains(|c: char| c.is_control() || c == '\u{2028}'), "{line:?}");
            assert!(!line.starts_with("2026 forged"), "{line:?}");
        }
    }
    assert!(log.lines().all(|line| line.starts_with("20")), "every line is an event's own:\n{log}");
    let events: Vec<Json> = audit.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let seqs: Vec<i64> = events.iter().map(|event| event["seq"].as_i64().unwrap()).collect();
    assert_eq!(seqs, (1..=events.len() as i64).collect::<Vec<_>>());
    let actions: Vec<&str> = events.iter().map(|event| event["action"].as_str().unwrap()).collect();
    assert_eq!((actions[..2].to_vec(), actions.last()), (vec!["start", "user add"], Some(&"stop")));
    let texts = events.iter().filter(|event| event["details"]["answers"] == json!(["abc"])).count();
    assert_eq!(texts, 4, "{audit}");
}

//! Who may do what: every operation of the OpenAPI document with every kind of credential, and the ways to come to one.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value as Json, json};
use steppe::auth::{Account, Authenticator, KeyRequest, Scope};
use steppe::config::AuthConfig;
use steppe::store::{Role, now};

use crate::harness::{MODEL, Setup, TestServer, ask, with};
use crate::http::{Reply, get, send};

pub const INTERNAL: &str = "an internal key of more than 32 bytes";
pub const PASSWORD: &str = "correct horse";

pub fn required() -> AuthConfig {
    AuthConfig {
        required: true,
        issuer: "steppe".into(),
        jwt_secret: None,
        access_token: Duration::from_mins(1),
        refresh_token: Duration::from_mins(10),
        internal_key: Some(INTERNAL.to_owned().into()),
    }
}

async fn server() -> TestServer {
    serve(Setup::new()).await
}

/// A server that asks for credentials, with the users `ann` and, an administrator, `root`.
pub async fn serve(mut setup: Setup) -> TestServer {
    setup.auth = Some(required());
    let server = setup.start().await;
    for (name, role) in [("ann", Role::User), ("root", Role::Admin)] {
        let account = Account { name: name.into(), password: Some(PASSWORD.into()), role, department: None };
        server.state.auth.add_user(account).await.unwrap();
    }
    server
}

pub async fn key(auth: &Authenticator, user: &str, scopes: &[Scope]) -> String {
    let user = auth.find_user(user).await.unwrap();
    let request = KeyRequest { name: "test".into(), scopes: scopes.to_vec(), ..KeyRequest::default() };
    auth.make_key(&user.id, request).await.unwrap().secret
}

pub async fn login(address: SocketAddr, user: &str) -> Json {
    let body = json!({"username": user, "password": PASSWORD});
    let reply = post(address, "/token", None, &body).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    reply.json()
}

/// A credential as a header, or none.
pub type Header = Option<(&'static str, String)>;

#[expect(clippy::unnecessary_wraps, reason = "a header that may also be none")]
pub fn bearer(token: &str) -> Header {
    Some(("authorization", format!("Bearer {token}")))
}

pub async fn call(address: SocketAddr, method: &str, path: &str, header: Header, body: &Json) -> Reply {
    let mut headers = vec![("content-type", "application/json")];
    headers.extend(header.as_ref().map(|(name, value)| (*name, value.as_str())));
    send(address, method, path, &headers, body.to_string().as_bytes()).await
}

pub async fn post(address: SocketAddr, path: &str, header: Header, body: &Json) -> Reply {
    call(address, "POST", path, header, body).await
}

/// What a route asks for.
fn scope_of(path: &str) -> Option<Scope> {
    match path {
        "/health" | "/ready" | "/token" | "/token/refresh" | "/token/revoke" => None,
        "/metrics" => Some(Scope::Metrics),
        path if path.starts_with("/health/") => Some(Scope::Metrics),
        "/v1/requests/{id}" => Some(Scope::Read),
        path if path.starts_with("/billing/") => Some(Scope::Read),
        path if path.starts_with("/admin/") => Some(Scope::Admin),
        _ => Some(Scope::Generate),
    }
}

/// Each kind of credential, with the scopes it has; `None` is no good credential.
async fn credentials(server: &TestServer) -> Vec<(&'static str, Header, Option<Vec<Scope>>)> {
    let auth = &server.state.auth;
    let token = async |user| login(server.address, user).await["access_token"].as_str().unwrap().to_owned();
    let (user, admin) = (token("ann").await, token("root").await);
    let revoked = token("ann").await;
    auth.revoke(&revoked).await.unwrap();
    let ann = auth.find_user("ann").await.unwrap().id;
    let expired = KeyRequest { name: "old".into(), expires_at: Some(now() - 1), ..KeyRequest::default() };
    let expired = auth.make_key(&ann, expired).await.unwrap().secret;
    let unsigned = format!("{}.{}.", "eyJhbGciOiJub25lIn0", user.split('.').nth(1).unwrap());
    let (mut ordinary, generate) = (Scope::ORDINARY.to_vec(), vec![Scope::Generate]);
    let mut rows = vec![
        ("none", None, None),
        ("nonsense", bearer("nonsense"), None),
        ("wrong key", bearer("sk-wrong"), None),
        ("basic", Some(("authorization", "Basic YW5uOnBhc3M=".into())), None),
        ("revoked token", bearer(&revoked), None),
        ("unsigned token", bearer(&unsigned), None),
        ("expired key", bearer(&expired), None),
        ("wrong internal", Some(("x-internal-auth", "wrong".into())), None),
        ("user's token", bearer(&user), Some(ordinary.clone())),
        ("user's key", bearer(&key(auth, "ann", &[]).await), Some(ordinary.clone())),
        ("key to generate", bearer(&key(auth, "ann", &generate).await), Some(generate.clone())),
        ("user's key that says admin", bearer(&key(auth, "ann", &[Scope::Admin, Scope::Metrics]).await), Some(vec![])),
        ("admin's ordinary key", bearer(&key(auth, "root", &[]).await), Some(ordinary.clone())),
        ("admin's key", bearer(&key(auth, "root", &[Scope::Admin]).await), Some(vec![Scope::Admin])),
        ("metrics key", bearer(&key(auth, "root", &[Scope::Metrics]).await), Some(vec![Scope::Metrics])),
        (
            "internal",
            Some(("x-internal-auth", INTERNAL.into())),
            Some(vec![Scope::Generate, Scope::Read, Scope::Metrics]),
        ),
    ];
    ordinary.extend([Scope::Metrics, Scope::Admin]);
    rows.push(("admin's token", bearer(&admin), Some(ordinary)));
    rows
}

#[tokio::test]
async fn every_operation_with_every_credential() {
    let server = server().await;
    let document = get(server.address, "/openapi.json").await.json();
    let rows = credentials(&server).await;
    let mut operations = 0;
    for (template, methods) in document["paths"].as_object().unwrap() {
        let path = template.replace("{id}", "nobody").replace("{key}", "none");
        for (method, operation) in methods.as_object().unwrap() {
            operations += 1;
            let scope = scope_of(template);
            let documented_open = operation["security"] == json!([{}]);
            assert_eq!(documented_open, scope.is_none(), "{method} {template}: the document says otherwise");
            for (name, header, scopes) in &rows {
                let reply = call(server.address, &method.to_uppercase(), &path, header.clone(), &json!({})).await;
                let said = format!("{method} {path} with {name}: {} {}", reply.status, reply.text());
                match (scope, scopes) {
                    (None, _) => assert!(!matches!(reply.status, 401 | 403), "{said}"),
                    (Some(_), None) => {
                        assert_eq!((reply.status, reply.header("www-authenticate")), (401, Some("Bearer")), "{said}");
                        assert_eq!(reply.json()["error"]["code"], "invalid_api_key", "{said}");
                    }
                    (Some(scope), Some(scopes)) if scopes.contains(&scope) => {
                        assert!(!matches!(reply.status, 401 | 403), "{said}");
                    }
                    (Some(_), Some(_)) => {
                        assert_eq!((reply.status, reply.json()["error"]["code"].as_str()), (403, Some("not_allowed")));
                    }
                }
            }
        }
    }
    assert!(operations > 15, "{operations}");
}

#[tokio::test]
async fn tokens_are_given_refreshed_once_and_taken_back() {
    let server = server().await;
    let address = server.address;
    let first = login(address, "Ann").await;
    assert_eq!((first["token_type"].as_str(), first["expires_in"].as_i64()), (Some("bearer"), Some(60)));
    assert_eq!(first["role"], "user");
    let form = "grant_type=password&username=ann&password=correct+horse";
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let reply = send(address, "POST", "/token", &headers, form.as_bytes()).await;
    assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")));

    let refresh = |token: &Json| json!({"refresh_token": token});
    let second = post(address, "/token/refresh", None, &refresh(&first["refresh_token"])).await;
    assert_eq!(second.status, 200, "{}", second.text());
    let second = second.json();
    let access = second["access_token"].as_str().unwrap();
    assert_eq!(call(address, "GET", "/v1/models", bearer(access), &json!({})).await.status, 200);
    let again = post(address, "/token/refresh", None, &refresh(&first["refresh_token"])).await;
    assert_eq!((again.status, again.json()["error"].as_str()), (400, Some("invalid_grant")));
    let family = with(refresh(&second["refresh_token"]), json!({"grant_type": "refresh_token"}));
    assert_eq!(post(address, "/token", None, &family).await.status, 400, "reuse ends the family");

    let revoked = post(address, "/token/revoke", None, &json!({"token": access})).await;
    assert_eq!(revoked.status, 200);
    assert_eq!(call(address, "GET", "/v1/models", bearer(access), &json!({})).await.status, 401);
}

#[tokio::test]
async fn logins_that_fail_all_look_alike_and_soon_cost_time() {
    let server = server().await;
    let address = server.address;
    let attempt = async |user: &str, password: &str| {
        let reply = post(address, "/token", None, &json!({"username": user, "password": password})).await;
        (reply.status, reply.json())
    };
    let wrong = attempt("ann", "wrong horse").await;
    let refused = json!({"error": "invalid_grant", "error_description": "Incorrect username or password"});
    assert_eq!(wrong, (400, refused));
    assert_eq!(attempt("nobody", PASSWORD).await, wrong);
    for (body, error) in [
        (json!({}), "invalid_request"),
        (json!({"username": "ann"}), "invalid_request"),
        (json!({"username": 1, "password": 2}), "invalid_request"),
        (json!({"grant_type": "client_credentials"}), "unsupported_grant_type"),
    ] {
        let reply = post(address, "/token", None, &body).await;
        assert_eq!((reply.status, reply.json()["error"].as_str()), (400, Some(error)), "{body}");
    }
    let mut slowed = None;
    for _ in 0..20 {
        let reply = post(address, "/token", None, &json!({"username": "ann", "password": "no such horse"})).await;
        if reply.status == 429 {
            slowed = reply.header("retry-after").map(str::to_owned);
            break;
        }
    }
    assert_eq!(slowed.as_deref(), Some("1"));
    login(address, "root").await;
    let (status, _) = attempt("ann", PASSWORD).await;
    assert_eq!(status, 429);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    login(address, "ann").await;
}

#[tokio::test]
async fn administrators_add_users_and_keys_and_take_them_back() {
    let server = server().await;
    let address = server.address;
    let admin = bearer(login(address, "root").await["access_token"].as_str().unwrap());
    let admin = |method: &'static str, path: String, body: Json| {
        let header = admin.clone();
        async move { call(address, method, &path, header, &body).await }
    };
    let body = json!({"username": "мария", "department": "Бухгалтерия"});
    let made = admin("POST", "/admin/users".into(), body.clone()).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let user = made.json();
    assert_eq!((user["role"].as_str(), user["password"].as_str().map(str::len)), (Some("user"), Some(20)));
    let again = admin("POST", "/admin/users".into(), body).await;
    assert_eq!((again.status, again.json()["error"]["code"].as_str()), (409, Some("already_exists")));
    for (body, param) in [
        (json!({"username": " x"}), "username"),
        (json!({"username": "x", "password": "short"}), "password"),
        (json!({"username": "x", "role": "king"}), "role"),
    ] {
        let reply = admin("POST", "/admin/users".into(), body).await;
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some(param)));
    }
    let own = admin("PATCH", "/admin/users/root".into(), json!({"disabled": true})).await;
    assert_eq!((own.status, own.json()["error"]["code"].as_str()), (409, Some("own_account")));
    let departments = admin("GET", "/admin/departments".into(), json!({})).await.json();
    assert_eq!(departments["data"][0]["id"], user["department_id"]);

    let keys = format!("/admin/users/{}/keys", user["id"].as_str().unwrap());
    let key = admin("POST", keys.clone(), json!({"name": "бот", "models": ["other"]})).await.json();
    let secret = key["key"].as_str().unwrap();
    let chat = post(address, "/v1/chat/completions", bearer(secret), &ask("hi")).await;
    assert_eq!((chat.status, chat.json()["error"]["code"].as_str()), (403, Some("model_not_allowed")));
    let models = call(address, "GET", "/v1/models", bearer(secret), &json!({})).await.json();
    assert_eq!(models["data"], json!([]));
    let good = admin("POST", keys.clone(), json!({"name": "good", "models": [MODEL]})).await.json();
    let good = good["key"].as_str().unwrap();
    assert_eq!(post(address, "/v1/chat/completions", bearer(good), &ask("hi")).await.status, 200);
    let listed = admin("GET", keys.clone(), json!({})).await.json();
    assert_eq!((listed["data"].as_array().unwrap().len(), &listed["data"][0]["key"]), (2, &Json::Null));
    let one = format!("{keys}/{}", key["id"].as_str().unwrap());
    assert_eq!(admin("DELETE", one.clone(), json!({})).await.status, 204);
    assert_eq!(call(address, "GET", "/v1/models", bearer(secret), &json!({})).await.status, 401);
    let others = format!("/admin/users/root/keys/{}", key["id"].as_str().unwrap());
    assert_eq!(admin("DELETE", others, json!({})).await.status, 404, "somebody else's key");

    let path = format!("/admin/users/{}", user["id"].as_str().unwrap());
    let changed = admin("PATCH", path, json!({"disabled": true, "role": "admin"})).await.json();
    assert_eq!((changed["disabled"].as_bool(), changed["role"].as_str()), (Some(true), Some("admin")));
    assert_eq!(post(address, "/v1/chat/completions", bearer(good), &ask("hi")).await.status, 401);
}

#[tokio::test]
async fn a_user_id_in_the_body_is_ones_own_or_takes_the_right_to_act_for_others() {
    let server = server().await;
    let (address, auth) = (server.address, &server.state.auth);
    let ann = auth.find_user("ann").await.unwrap().id;
    let own = bearer(&key(auth, "ann", &[]).await);
    let (root, acting) = (auth.find_user("root").await.unwrap().id, Some(("x-internal-auth", INTERNAL.to_owned())));
    for (header, user_id, status) in [
        (own.clone(), ann.as_str(), 200),
        (own, root.as_str(), 403),
        (acting.clone(), ann.as_str(), 200),
        (acting.clone(), "nobody", 404),
        (bearer(&key(auth, "root", &[Scope::Generate, Scope::ActAs]).await), ann.as_str(), 200),
    ] {
        for (path, body) in [("/v1/chat/completions", ask("hi")), ("/ask", json!({"prompt": "hi"}))] {
            let reply = post(address, path, header.clone(), &with(body, json!({"user_id": user_id}))).await;
            assert_eq!(reply.status, status, "{path} for {user_id}: {}", reply.text());
        }
    }
    let reply = post(address, "/ask", acting, &json!({"prompt": "whose?", "user_id": ann})).await;
    let id = reply.header("x-steppe-request-id").unwrap().trim_start_matches("req_").to_owned();
    assert_eq!(auth.store().finished_request(&id).await.unwrap().unwrap().user_id, ann);
    let headers = [("authorization", "Bearer of-a-library"), ("x-internal-auth", INTERNAL)];
    let both = send(address, "GET", "/v1/models", &headers, b"").await;
    assert_eq!(both.status, 200, "the service's key counts before a library's own bearer");
}

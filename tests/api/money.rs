//! Holds, charges, budgets and what one sees of them, over the API.

use std::io::{Read as _, Write as _};
use std::time::Duration;

use serde_json::{Value as Json, json};
use steppe::auth::Scope;

use crate::access::{Header, bearer, call, key, post, serve};
use crate::harness::{MODEL, Setup, TestServer, ask, with};
use crate::http::Reply;

const CHAT: &str = "/v1/chat/completions";
/// Tokens of the answer, its end included.
const ANSWER: &str = "abcde";

struct World {
    server: TestServer,
    ann: Header,
    root: Header,
    ann_id: String,
}

/// A prompt token costs 0.001, a token of the answer 0.002.
async fn world() -> World {
    let mut setup = Setup::new().chat("hi", ANSWER);
    setup.settings = vec![("billing.enabled", "true"), ("billing.input_price", "1"), ("billing.output_price", "2")];
    let server = serve(setup).await;
    let auth = &server.state.auth;
    let ann = bearer(&key(auth, "ann", &[]).await);
    let root = bearer(&key(auth, "root", &[Scope::Admin, Scope::Generate, Scope::Read]).await);
    let ann_id = auth.find_user("ann").await.unwrap().id;
    World { server, ann, root, ann_id }
}

impl World {
    async fn get(&self, path: &str) -> Json {
        let reply = call(self.server.address, "GET", path, self.ann.clone(), &json!({})).await;
        assert_eq!(reply.status, 200, "{path}: {}", reply.text());
        reply.json()
    }

    async fn admin(&self, method: &str, path: &str, body: Json) -> Reply {
        call(self.server.address, method, path, self.root.clone(), &body).await
    }

    async fn chat(&self, further: Json) -> Reply {
        post(self.server.address, CHAT, self.ann.clone(), &with(ask("hi"), further)).await
    }

    async fn balance(&self) -> f64 {
        self.get("/billing/balance").await["balance"].as_f64().unwrap()
    }

    async fn top_up(&self, amount: f64) {
        let body = json!({"amount": amount, "reason": "salary"});
        let reply = self.admin("POST", &format!("/admin/users/{}/topups", self.ann_id), body).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }
}

fn cost(usage: &Json) -> f64 {
    let tokens = |name: &str| usage[name].as_f64().unwrap();
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_f64().unwrap();
    (tokens("prompt_tokens") - cached) * 0.001 + tokens("completion_tokens") * 0.002
}

fn near(one: f64, other: f64) -> bool {
    (one - other).abs() < 1e-9
}

#[tokio::test]
async fn what_is_reported_is_charged_once_and_can_be_looked_up() {
    let world = world().await;
    let refused = world.chat(json!({})).await;
    assert_eq!((refused.status, refused.json()["error"]["type"].as_str()), (429, Some("insufficient_quota")));
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    world.top_up(1.0).await;

    let estimate = post(world.server.address, "/billing/estimate", world.ann.clone(), &ask("hi")).await.json();
    let reply = world.chat(json!({"max_tokens": 20})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let usage = reply.json()["usage"].clone();
    assert_eq!(usage["completion_tokens"], ANSWER.len() + 1);
    assert_eq!(usage["prompt_tokens"], estimate["prompt_tokens"]);
    assert!(estimate["max_cost"].as_f64().unwrap() >= cost(&usage));
    assert!(near(world.balance().await, 1.0 - cost(&usage)));

    let streamed = world.chat(json!({"stream": true, "stream_options": {"include_usage": true}})).await;
    let chunks = streamed.chunks();
    let second = chunks.last().unwrap()["usage"].clone();
    assert!(near(world.balance().await, 1.0 - cost(&usage) - cost(&second)), "settled before the end is heard");

    let id = reply.json()["id"].as_str().unwrap().to_owned();
    let request = world.get(&format!("/v1/requests/{id}")).await;
    assert_eq!((request["outcome"].as_str(), request["model"].as_str()), (Some("completed"), Some(MODEL)));
    assert!(near(request["cost"].as_f64().unwrap(), cost(&usage)));
    assert_eq!(request["details"]["cache"], "bypass");
    let own = reply.header("x-steppe-request-id").unwrap();
    assert_eq!(world.get(&format!("/v1/requests/{own}")).await["id"], request["id"]);
    let other = bearer(&key(&world.server.state.auth, "root", &[]).await);
    let path = format!("/v1/requests/{id}");
    assert_eq!(call(world.server.address, "GET", &path, other, &json!({})).await.status, 404, "somebody else's");

    let transactions = world.get("/billing/transactions?limit=2").await;
    let amounts: Vec<f64> =
        transactions["transactions"].as_array().unwrap().iter().map(|row| row["amount"].as_f64().unwrap()).collect();
    assert!(amounts.len() == 2 && near(amounts[0], -cost(&second)) && near(amounts[1], -cost(&usage)), "{amounts:?}");
    let by_model = world.get("/billing/usage?group_by=model").await["usage"][0].clone();
    assert_eq!((by_model["group"].as_str(), by_model["requests"].as_i64()), (Some(MODEL), Some(2)));
    assert!(near(by_model["cost"].as_f64().unwrap(), cost(&usage) + cost(&second)));
    assert_eq!(world.get("/billing/usage?from=2020-01-01&to=2020-02-01").await["usage"], json!([]));
    assert_eq!(world.server.state.gate.ledger.check().await.unwrap(), Vec::<String>::new());
}

/// A long streamed answer under way, of which some has been read, and what ann has.
async fn under_way(server: &TestServer) -> (std::net::TcpStream, String) {
    let auth = &server.state.auth;
    let ann = auth.find_user("ann").await.unwrap().id;
    server.state.gate.ledger.top_up(&ann, 1_000_000, "test", "test").await.unwrap();
    let authorization = bearer(&key(auth, "ann", &[]).await).unwrap().1;
    let body = with(ask("long"), json!({"max_tokens": 400, "ignore_eos": true, "stream": true})).to_string();
    let head =
        format!("POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nauthorization: {authorization}");
    let address = server.address;
    let begun = tokio::task::spawn_blocking(move || {
        let mut connection = std::net::TcpStream::connect(address).unwrap();
        write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
        connection.read_exact(&mut [0; 4000]).unwrap();
        connection
    });
    let connection = begun.await.unwrap();
    assert_eq!(server.state.gate.ledger.balance(&ann).await.unwrap().held, 400 * 1000);
    (connection, ann)
}

async fn slow_server() -> TestServer {
    let mut setup = Setup::new().slow(Duration::from_millis(5));
    setup.settings = vec![("billing.enabled", "true"), ("billing.output_price", "1")];
    serve(setup).await
}

/// The balance once nothing is held.
async fn settled(server: &TestServer, user: &str) -> i64 {
    for _ in 0..500 {
        let balance = server.state.gate.ledger.balance(user).await.unwrap();
        if balance.held == 0 {
            assert_eq!(server.state.gate.ledger.check().await.unwrap(), Vec::<String>::new());
            return balance.balance;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still held");
}

#[tokio::test]
async fn a_client_that_leaves_pays_for_what_was_made() {
    let server = slow_server().await;
    let (connection, ann) = under_way(&server).await;
    drop(connection);
    server.becomes_idle().await;
    let paid = 1_000_000 - settled(&server, &ann).await;
    let made = server.engine.stats().generation_tokens as i64;
    // The last token may have come while the client was leaving.
    assert!(paid > 0 && (made - 2..=made).contains(&(paid / 1000)), "{paid} for {made} tokens");
    let rows = server.state.gate.ledger.transactions(&ann, 1, 0).await.unwrap();
    let request = server.state.auth.store().finished_request(&rows[0].id).await.unwrap().unwrap();
    assert_eq!((request.outcome.as_str(), request.completion_tokens), ("cancelled", paid / 1000));
}

#[tokio::test]
async fn an_answer_that_fails_costs_nothing() {
    let server = slow_server().await;
    let (connection, ann) = under_way(&server).await;
    server.engine.shutdown(Duration::ZERO).await;
    assert_eq!(settled(&server, &ann).await, 1_000_000);
    drop(connection);
}

#[tokio::test]
async fn budgets_bound_users_keys_and_departments() {
    let world = world().await;
    world.top_up(100.0).await;
    let budget = |limit: i64| json!({"subject": "user", "subject_id": world.ann_id, "period": "day", "unit": "tokens", "limit": limit});
    assert_eq!(world.admin("PUT", "/admin/budgets", budget(10)).await.status, 204);
    let refused = world.chat(json!({})).await;
    assert_eq!((refused.status, refused.json()["error"]["code"].as_str()), (429, Some("insufficient_quota")));
    assert!(refused.json()["error"]["message"].as_str().unwrap().contains("today"));
    assert_eq!(world.admin("PUT", "/admin/budgets", budget(1000)).await.status, 204);
    let reply = world.chat(json!({})).await;
    assert_eq!(reply.status, 200, "{}", reply.text());
    let budgets = world.admin("GET", "/admin/budgets", json!({})).await.json();
    assert_eq!(budgets["data"][0]["used"], reply.json()["usage"]["total_tokens"].as_f64().unwrap());
    let id = budgets["data"][0]["id"].as_str().unwrap();
    assert_eq!(world.admin("DELETE", &format!("/admin/budgets/{id}"), json!({})).await.status, 204);
    assert_eq!(world.admin("DELETE", &format!("/admin/budgets/{id}"), json!({})).await.status, 404);
    for (body, param) in [
        (with(budget(1), json!({"subject": "planet"})), "subject"),
        (with(budget(1), json!({"period": "year"})), "period"),
        (with(budget(1), json!({"unit": "gold"})), "unit"),
        (with(budget(1), json!({"limit": -1})), "limit"),
    ] {
        let reply = world.admin("PUT", "/admin/budgets", body).await;
        assert_eq!((reply.status, reply.json()["error"]["param"].as_str()), (400, Some(param)));
    }
}

#[tokio::test]
async fn everybodys_transactions_come_as_csv() {
    let world = world().await;
    world.top_up(2.5).await;
    let reply = world.admin("GET", "/admin/transactions.csv", json!({})).await;
    let lines: Vec<&str> = reply.text().lines().collect();
    assert_eq!(lines[0], "id,user_id,amount,description,author,timestamp");
    assert!(lines.len() == 2 && lines[1].contains(&format!("{},2.500000,salary,root,", world.ann_id)), "{lines:?}");
    for path in ["/billing/usage?from=yesterday", "/billing/usage?group_by=mood", "/billing/transactions?limit=0"] {
        let reply = call(world.server.address, "GET", path, world.ann.clone(), &json!({})).await;
        assert_eq!(reply.status, 400, "{path}");
    }
    let path = "/billing/balance?user_id=somebody";
    assert_eq!(call(world.server.address, "GET", path, world.ann.clone(), &json!({})).await.status, 403);
}

//! Two servers that share PostgreSQL and Redis: one limit, one list of revoked tokens, one cache, one balance.
//! Needs `TEST_POSTGRES_URL`, which scripts/test sets, and `redis-server`.

use std::net::SocketAddr;

use serde_json::{Value as Json, json};
use steppe::auth::Scope;
use tempfile::TempDir;

use crate::access::{Header, bearer, call, key, login, post, required};
use crate::harness::{Setup, TestServer, ask, with};
use crate::testing::RedisServer;

const CHAT: &str = "/v1/chat/completions";
const ALLOWED: usize = 40;

struct Pair {
    servers: [TestServer; 2],
    _redis: RedisServer,
    _folder: TempDir,
}

/// None where there is no PostgreSQL to be had.
async fn pair(settings: &[(&'static str, &'static str)]) -> Option<Pair> {
    let base = std::env::var("TEST_POSTGRES_URL").ok()?;
    let name = format!("steppe_test_{:x}", rand::random::<u64>());
    sqlx::any::install_default_drivers();
    let admin = sqlx::AnyPool::connect(&base).await.unwrap();
    sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).execute(&admin).await.unwrap();
    let leak = |text: String| -> &'static str { Box::leak(text.into_boxed_str()) };
    let store = leak(format!("{}/{name}", base.rsplit_once('/').unwrap().0));
    let redis = RedisServer::start().await;
    let url = leak(redis.url());
    let start = async || {
        let mut setup = Setup::new().chat("hi", "abc").embeds();
        setup.options.queue_capacity = 1000;
        setup.settings.extend([("store.url", store), ("redis.url", url)].iter().chain(settings));
        setup.auth = Some(required());
        setup.start().await
    };
    let servers = [start().await, start().await];
    for (user, role) in [("ann", steppe::store::Role::User), ("root", steppe::store::Role::Admin)] {
        let password = Some(crate::access::PASSWORD.to_owned());
        let account = steppe::auth::Account { name: user.into(), password, role, department: None };
        servers[0].state.auth.add_user(account).await.unwrap();
    }
    Some(Pair { servers, _redis: redis, _folder: tempfile::tempdir().unwrap() })
}

impl Pair {
    fn addresses(&self) -> [SocketAddr; 2] {
        [self.servers[0].address, self.servers[1].address]
    }

    /// A hundred requests at once, half to each server: how many were answered.
    async fn hundred(&self, header: &Header, further: Json) -> usize {
        let addresses = self.addresses();
        let requests: Vec<_> = (0..100)
            .map(|index| {
                let (address, header) = (addresses[index % 2], header.clone());
                let body = with(ask(&format!("request {index}")), further.clone());
                tokio::spawn(async move { post(address, CHAT, header, &body).await.status })
            })
            .collect();
        let mut answered = 0;
        for request in requests {
            match request.await.unwrap() {
                200 => answered += 1,
                status => assert_eq!(status, 429),
            }
        }
        answered
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_users_revocations_and_the_cache() {
    let Some(pair) = pair(&[]).await else { return };
    let [here, there] = pair.addresses();
    let token = login(here, "ann").await["access_token"].as_str().unwrap().to_owned();
    let status = async |address| call(address, "GET", "/v1/models", bearer(&token), &json!({})).await.status;
    assert_eq!((status(here).await, status(there).await), (200, 200));
    let revoked = post(there, "/token/revoke", None, &json!({"token": token})).await;
    assert_eq!(revoked.status, 200);
    assert_eq!((status(here).await, status(there).await), (401, 401));

    let ann = bearer(&key(&pair.servers[1].state.auth, "ann", &[]).await);
    let certain = with(ask("hi"), json!({"temperature": 0}));
    let state = async |address| post(address, CHAT, ann.clone(), &certain).await.header("x-cache").unwrap().to_owned();
    assert_eq!((state(here).await, state(there).await), ("miss".into(), "hit".into()));
    let root = bearer(&key(&pair.servers[0].state.auth, "root", &[Scope::Admin]).await);
    assert_eq!(post(here, "/admin/cache/purge", root, &json!({})).await.status, 204);
    assert_eq!((state(there).await, state(here).await), ("miss".into(), "hit".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_similar_questions() {
    let Some(pair) = pair(&[("cache.similar", "on"), ("redis.timeout_ms", "5000")]).await else { return };
    let [here, there] = pair.addresses();
    let ann = bearer(&key(&pair.servers[0].state.auth, "ann", &[]).await);
    let ask = async |address, question: &str| {
        let reply = post(address, CHAT, ann.clone(), &with(ask(question), json!({"temperature": 0}))).await;
        // An answer is kept after it is told.
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        (reply.header("x-cache").unwrap().to_owned(), reply.json()["choices"][0]["message"]["content"].clone())
    };
    let (outcome, first) = ask(here, "how do I get to the roof").await;
    assert_eq!(outcome, "miss");
    assert_eq!(ask(there, "to the roof how do I get").await, ("semantic".into(), first));
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_limit() {
    let Some(pair) = pair(&[("limits.requests_per_hour", "40"), ("redis.timeout_ms", "5000")]).await else { return };
    let ann = bearer(&key(&pair.servers[0].state.auth, "ann", &[]).await);
    assert_eq!(pair.hundred(&ann, json!({"max_tokens": 1})).await, ALLOWED);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_share_one_balance() {
    let Some(pair) = pair(&[("billing.enabled", "true"), ("billing.output_price", "1")]).await else { return };
    let auth = &pair.servers[0].state.auth;
    let ann_id = auth.find_user("ann").await.unwrap().id;
    let ledger = &pair.servers[1].state.gate.ledger;
    // A token costs 0.001, and every request takes exactly one.
    ledger.top_up(&ann_id, ALLOWED as i64 * 1000, "test", "test").await.unwrap();
    let ann = bearer(&key(auth, "ann", &[]).await);
    assert_eq!(pair.hundred(&ann, json!({"max_tokens": 1, "ignore_eos": true})).await, ALLOWED);
    let balance = pair.servers[0].state.gate.ledger.balance(&ann_id).await.unwrap();
    assert_eq!((balance.balance, balance.held), (0, 0));
    assert_eq!(ledger.check().await.unwrap(), Vec::<String>::new());
}

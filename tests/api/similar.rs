//! Answers to similar questions over the API. The encoder of these tests counts letters, so that other orders of the same
//! words are as near as can be.

use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use steppe::auth::Scope;
use steppe::config::{Sources, load};

use crate::access::{Header, bearer, call, key, post, serve};
use crate::harness::{MODEL, Setup, TestServer, ask, with};
use crate::http::{Reply, send};
use crate::testing::RedisServer;

const CHAT: &str = "/v1/chat/completions";
const ONE: &str = "how do I reset my password";
const TWO: &str = "my password how do I reset";
const THREE: &str = "reset my password how do I";
const ROOM_5: &str = "is the big room 5 on the second floor free for my friends and me";
const ROOM_6: &str = "is the big room 6 on the second floor free for my friends and me";

struct Asker {
    server: TestServer,
    ann: Header,
    root: Header,
}

impl Asker {
    async fn new(setup: Setup, mode: &'static str, further: &[(&'static str, &'static str)]) -> Self {
        let mut setup = setup.embeds();
        setup.settings.push(("cache.similar", mode));
        setup.settings.push(("cache.similar_deadline_ms", "10000"));
        setup.settings.extend(further);
        let server = serve(setup).await;
        let ann = bearer(&key(&server.state.auth, "ann", &[]).await);
        let root = bearer(&key(&server.state.auth, "root", &[Scope::Admin, Scope::Generate, Scope::Metrics]).await);
        Self { server, ann, root }
    }

    async fn send(&self, body: &Json, control: &str) -> Reply {
        let mut headers = vec![("content-type", "application/json"), ("cache-control", control)];
        headers.extend(self.ann.as_ref().map(|(name, value)| (*name, value.as_str())));
        let reply = send(self.server.address, "POST", CHAT, &headers, body.to_string().as_bytes()).await;
        assert_eq!(reply.status, 200, "{}", reply.text());
        // An answer is kept after it is told.
        tokio::time::sleep(Duration::from_millis(150)).await;
        reply
    }

    /// What the cache said to a question.
    async fn outcome(&self, question: &str) -> String {
        outcome(&self.send(&certain(question), "").await)
    }

    async fn metric(&self, name: &str, result: &str) -> u64 {
        let reply = call(self.server.address, "GET", "/metrics", self.root.clone(), &json!({})).await;
        let series = format!("{name}{{result=\"{result}\"}} ");
        let text = reply.text();
        let value = text.lines().find_map(|line| line.strip_prefix(&series));
        value.map_or(0, |value| value.parse().unwrap())
    }

    async fn similar(&self, result: &str) -> u64 {
        self.metric("prompt_cache_similar_total", result).await
    }

    async fn checked(&self, result: &str) -> u64 {
        self.metric("prompt_cache_similar_checks_total", result).await
    }

    /// Waits until so many answers were checked with this result.
    async fn becomes_checked(&self, result: &str, count: u64) {
        let since = Instant::now();
        while self.checked(result).await != count {
            assert!(since.elapsed() < Duration::from_secs(10), "never {count} times {result}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn certain(question: &str) -> Json {
    with(ask(question), json!({"temperature": 0, "max_tokens": 40}))
}

fn outcome(reply: &Reply) -> String {
    reply.header("x-cache").unwrap().to_owned()
}

fn text(reply: &Reply) -> String {
    reply.json()["choices"][0]["message"]["content"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_similar_question_gets_the_answer_and_another_does_not() {
    let redis = RedisServer::start().await;
    let url: &'static str = Box::leak(redis.url().into_boxed_str());
    for store in [&[][..], &[("redis.url", url), ("redis.timeout_ms", "5000")]] {
        let further: Vec<_> = [("cache.similar_recheck_share", "0")].iter().chain(store).copied().collect();
        let asker = Asker::new(Setup::new(), "on", &further).await;
        let first = asker.send(&certain(ONE), "").await;
        assert_eq!((outcome(&first), first.header("age")), ("miss".into(), None));
        let generated = asker.server.engine.stats().generation_tokens;
        let second = asker.send(&certain(TWO), "").await;
        assert_eq!((outcome(&second), second.header("age")), ("semantic".into(), Some("0")));
        assert_eq!(text(&first), text(&second));
        assert_eq!(asker.outcome(ONE).await, "hit");
        assert_eq!(asker.outcome(TWO).await, "semantic", "it is not kept as its own answer");
        let prompt_tokens = |reply: &Reply| reply.json()["usage"]["prompt_tokens"].as_u64().unwrap();
        let longer = asker.send(&certain(&format!("{TWO}??")), "").await;
        assert_eq!((outcome(&longer), prompt_tokens(&longer)), ("semantic".into(), prompt_tokens(&first) + 2));
        let streamed = asker.send(&with(certain(TWO), json!({"stream": true})), "").await;
        assert_eq!(outcome(&streamed), "semantic");
        let id = second.json()["id"].as_str().unwrap().rsplit('-').next().unwrap().to_owned();
        let request = asker.server.state.auth.store().finished_request(&id).await.unwrap().unwrap();
        assert!(request.cached_tokens == request.prompt_tokens && request.details.contains("semantic"), "{request:?}");
        assert_eq!(asker.server.engine.stats().generation_tokens, generated, "nothing was computed");
        assert_eq!((asker.similar("hit").await, asker.similar("miss").await), (4, 1));

        assert_eq!(asker.outcome(ROOM_5).await, "miss");
        assert_eq!(asker.outcome(ROOM_6).await, "miss", "another number");
        assert_eq!(asker.similar("guarded").await, 1);
        let other_user = post(asker.server.address, CHAT, asker.root.clone(), &certain(TWO)).await;
        assert_eq!(outcome(&other_user), "miss", "users do not share");
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let after = |before: Json| json!({"messages": [before, message("user", TWO)]});
        for other in [
            after(message("system", "be kind")),
            json!({"messages": [message("user", "hi"), message("assistant", "hello"), message("user", TWO)]}),
            json!({"max_tokens": 39}),
            json!({"top_k": 5}),
            json!({"stop": "x"}),
            json!({"seed": 7}),
            json!({"n": 2}),
        ] {
            assert_eq!(outcome(&asker.send(&with(certain(TWO), other.clone()), "").await), "miss", "{other}");
        }
        assert_eq!(outcome(&asker.send(&with(certain(THREE), json!({"temperature": 1})), "").await), "bypass");
    }
}

#[tokio::test]
async fn clients_and_administrators_say_what_is_used() {
    let asker = Asker::new(Setup::new(), "on", &[("cache.similar_recheck_share", "0")]).await;
    let state = async |question: &str, control: &str| outcome(&asker.send(&certain(question), control).await);
    assert_eq!(state(ONE, "").await, "miss");
    assert_eq!(state(TWO, "no-store").await, "semantic", "no-store reads");
    assert_eq!(state(TWO, "no-cache, no-store").await, "bypass");
    assert_eq!(state(TWO, "no-cache").await, "miss", "no-cache does not");
    assert_eq!(state(TWO, "").await, "hit", "and writes");
    let purge = async |body: Json| {
        let purged = call(asker.server.address, "POST", "/admin/cache/purge", asker.root.clone(), &body).await;
        assert_eq!(purged.status, 204, "{}", purged.text());
    };
    for (body, forgets) in [
        (json!({"user": "root"}), false),
        (json!({"user": "ann"}), true),
        (json!({"model": MODEL}), true),
        (json!({}), true),
    ] {
        purge(body.clone()).await;
        assert_eq!(state(THREE, "no-store").await, if forgets { "miss" } else { "semantic" }, "{body}");
        assert_eq!(state(ONE, "").await, if forgets { "miss" } else { "hit" }, "{body}");
    }
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(state(THREE, "max-age=0").await, "miss", "too old");
    purge(json!({})).await;
    assert_eq!(state(ONE, "no-cache").await, "miss");
    assert_eq!(state(TWO, "").await, "semantic", "who does not read may still be read");
    let body = json!({"prompt": "who has the key to the roof"});
    let source = async |body: &Json| {
        let reply = post(asker.server.address, "/ask", asker.ann.clone(), body).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        reply.json()["source"].as_str().unwrap().to_owned()
    };
    assert_eq!(source(&body).await, "model");
    assert_eq!(source(&json!({"prompt": "the key to the roof who has"})).await, "cache");
}

#[tokio::test]
async fn in_shadow_mode_answers_are_compared_and_not_given() {
    let setup = Setup::new().chat(ONE, "ask the desk").chat(TWO, "ask  the desk").chat(THREE, "ask the desk 5 times");
    let asker = Asker::new(setup, "shadow", &[]).await;
    let metrics = call(asker.server.address, "GET", "/metrics", asker.root.clone(), &json!({})).await;
    assert!(metrics.text().contains("similar_checks_total{result=\"false\"} 0"), "there before it is needed");
    assert_eq!(asker.outcome(ONE).await, "miss");
    let second = asker.send(&certain(TWO), "").await;
    assert_eq!((outcome(&second), text(&second)), ("miss".into(), "ask  the desk".into()), "its own answer");
    asker.becomes_checked("agree", 1).await;
    assert_eq!(asker.outcome(THREE).await, "miss");
    asker.becomes_checked("false", 1).await;
    assert_eq!((asker.similar("shadow").await, asker.similar("hit").await, asker.checked("agree").await), (2, 0, 1));
    assert_eq!(asker.outcome(THREE).await, "hit", "answers of their own are kept as ever");
}

#[tokio::test]
async fn answers_given_are_checked_when_there_is_time_and_wrong_ones_replaced() {
    let setup = Setup::new().chat(ONE, "ask the desk").chat(TWO, "ask the desk").chat(THREE, "do not ask");
    let asker = Asker::new(setup, "on", &[("cache.similar_recheck_share", "1")]).await;
    assert_eq!(asker.outcome(ONE).await, "miss");
    assert_eq!(asker.outcome(TWO).await, "semantic");
    asker.becomes_checked("agree", 1).await;
    let wrong = asker.send(&certain(THREE), "").await;
    assert_eq!((outcome(&wrong), text(&wrong)), ("semantic".into(), "ask the desk".into()));
    asker.becomes_checked("false", 1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let right = asker.send(&certain(THREE), "").await;
    assert_eq!((outcome(&right), text(&right)), ("hit".into(), "do not ask".into()), "the true answer is there now");
    let metrics = call(asker.server.address, "GET", "/metrics", asker.root.clone(), &json!({})).await;
    let metrics = metrics.text();
    assert!(metrics.contains("ledger_settlements_total{outcome=\"completed\"} 4"), "nobody pays for checks: {metrics}");
}

#[tokio::test]
async fn a_check_gives_way_to_others_and_to_the_end() {
    let answer = "a long answer that takes its time";
    let setup = Setup::new().chat(ONE, answer).chat(TWO, answer).chat("hi", "ab").slow(Duration::from_millis(100));
    let asker = Asker::new(setup, "on", &[("cache.similar_recheck_share", "1")]).await;
    assert_eq!(asker.outcome(ONE).await, "miss");
    assert_eq!(asker.outcome(TWO).await, "semantic");
    asker.server.runs(1).await;
    assert_eq!(asker.outcome("hi").await, "miss");
    asker.server.becomes_idle().await;
    assert_eq!(asker.outcome(TWO).await, "semantic");
    asker.server.runs(1).await;
    let stopped = Instant::now();
    asker.server.engine.shutdown(Duration::from_secs(20)).await;
    assert!(stopped.elapsed() < Duration::from_secs(2), "{:?}", stopped.elapsed());
    assert_eq!((asker.checked("agree").await, asker.checked("false").await), (0, 0), "neither was finished");
}

#[tokio::test]
async fn a_vector_that_is_late_or_fails_is_a_miss() {
    let setup = Setup::new().slow(Duration::from_millis(60));
    let asker = Asker::new(setup, "on", &[("cache.similar_deadline_ms", "1")]).await;
    assert_eq!(asker.outcome(ONE).await, "miss");
    assert_eq!(asker.outcome(TWO).await, "miss");
    assert_eq!(asker.similar("late").await, 2);
    // The encoder reads small letters, the model does not.
    let mut setup = Setup::new();
    setup.mock.failing_token = Some(u32::from(b'q'));
    let asker = Asker::new(setup, "on", &[]).await;
    assert_eq!(asker.outcome("who is Q in our team").await, "miss");
    assert_eq!(asker.outcome("in our team who is Q").await, "miss");
    assert_eq!(asker.similar("failed").await, 2);
}

#[test]
fn similar_questions_need_an_embedding_model() {
    let flag = |key: &str, value: &str| (format!("--set {key}"), key.to_owned(), value.to_owned());
    let told = |flags: Vec<_>| load(&Sources { flags, ..Sources::default() }).err().map(|error| error.to_string());
    let model = || flag("embeddings.model", "toy");
    for (flags, problem) in [
        (vec![flag("cache.similar", "on")], Some("embeddings.model")),
        (vec![flag("cache.similar", "shadow")], Some("embeddings.model")),
        (vec![flag("cache.similar", "yes"), model()], Some("off, shadow or on")),
        (vec![flag("cache.similar", "on"), model(), flag("cache.enabled", "false")], Some("cache.enabled")),
        (vec![flag("cache.similar", "on"), model(), flag("cache.similar_threshold", "1.1")], Some("0.5 to 1")),
        (vec![flag("cache.similar", "on"), model()], None),
        (vec![], None),
    ] {
        let told = told(flags.clone());
        assert_eq!(told.is_some(), problem.is_some(), "{flags:?} {told:?}");
        assert!(told.unwrap_or_default().contains(problem.unwrap_or_default()), "{flags:?}");
    }
}

//! The demo model behind the API: 64 clients at once get the answers that each would get alone.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::harness::{ServedModel, serve_model};
use crate::http::{get, post};

const CLIENTS: usize = 64;
const CHAT: &str = "/v1/chat/completions";

fn weights(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights").join(name);
    assert!(path.exists(), "{} is missing: run scripts/test, which brings it", path.display());
    path.to_str().unwrap().to_owned()
}

/// The demo model on a free port.
async fn demo_server(further: &[(&str, &str)]) -> ServedModel {
    let path = weights("SmolLM2-135M-Instruct.Q4_1.gguf");
    let settings = [("model.path", path.as_str()), ("engine.kv_cache_mib", "512"), ("engine.max_sequences", "32")];
    serve_model(&[&settings, further].concat()).await.unwrap()
}

/// Distinct prompts, half of them greedy and half sampled with a seed.
fn body(client: usize) -> Json {
    let topics = ["rivers", "steppes", "horses", "the number seven", "tea", "winter", "trains", "книги"];
    let prompt = format!("Client {client}: tell me one thing about {}.", topics[client % topics.len()]);
    let temperature = if client.is_multiple_of(2) { 0.0 } else { 0.9 };
    json!({
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": 12, "temperature": temperature, "seed": client, "stream": true,
    })
}

/// Reads the whole stream, or only so many bytes of it.
fn stream(address: SocketAddr, body: &Json, bytes: Option<usize>) -> Option<String> {
    let body = body.to_string();
    let mut connection = TcpStream::connect(address).unwrap();
    let head = "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    write!(connection, "{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).unwrap();
    if let Some(bytes) = bytes {
        let mut some = vec![0; bytes];
        let _ = connection.read_exact(&mut some);
        return None;
    }
    let mut all = String::new();
    connection.read_to_string(&mut all).unwrap();
    assert!(all.contains("data: [DONE]"), "{all}");
    Some(answer(&all))
}

fn answer(stream: &str) -> String {
    stream
        .lines()
        .filter_map(|line| serde_json::from_str::<Json>(line.strip_prefix("data: ")?).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_clients_at_once_get_the_answers_they_would_get_alone() {
    let model = demo_server(&[]).await;
    let (address, engine) = (model.address, &model.engine);
    let mut random = fastrand::Rng::with_seed(64);
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let leaves_after = (random.u8(..4) == 0).then(|| random.usize(1..4000));
            let read = move || (client, stream(address, &body(client), leaves_after));
            tokio::task::spawn_blocking(read)
        })
        .collect();
    let mut finished = Vec::new();
    for client in clients {
        if let (client, Some(text)) = client.await.unwrap() {
            finished.push((client, text));
        }
    }
    assert!(finished.len() > CLIENTS / 2);
    let mut idle = false;
    for _ in 0..200 {
        let stats = engine.stats();
        idle = stats.running == 0 && stats.waiting == 0 && stats.kv_blocks_used == 0;
        if idle {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(idle, "blocks are still held: {:?}", engine.stats());
    for (client, together) in finished {
        let alone = tokio::task::spawn_blocking(move || stream(address, &body(client), None)).await.unwrap().unwrap();
        assert_eq!(together, alone, "client {client}");
    }
    let reply = get(address, "/metrics").await;
    assert!(reply.text().contains("vllm:generation_tokens_total{model_name=\"SmolLM2-135M-Instruct.Q4_1\"}"));
    let body = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 9000});
    let reply = post(address, CHAT, &body).await;
    assert_eq!(reply.json()["error"]["code"], "context_length_exceeded");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paraphrase_gets_the_answer_and_a_near_miss_does_not() {
    let folder = weights("embeddings/all-MiniLM-L6-v2");
    let settings =
        [("embeddings.model", folder.as_str()), ("cache.similar", "on"), ("cache.similar_deadline_ms", "9000")];
    let model = demo_server(&settings).await;
    let ask = async |question: &str| {
        let messages = json!([{"role": "user", "content": question}]);
        let reply = post(model.address, CHAT, &json!({"messages": messages, "max_tokens": 8, "temperature": 0})).await;
        // An answer is kept after it is told.
        tokio::time::sleep(Duration::from_millis(500)).await;
        (reply.header("x-cache").unwrap().to_owned(), reply.json()["choices"][0]["message"]["content"].clone())
    };
    let (outcome, answer) = ask("How do I reset my password?").await;
    assert_eq!(outcome, "miss");
    assert_eq!(ask("How can I reset my password?").await, ("semantic".into(), answer));
    assert_eq!(ask("How can I not reset my password?").await.0, "miss");
    assert_eq!(ask("How do I cook rice?").await.0, "miss");
}

//! The encoder's side of the engine: order, turns, bounds and endings.

use std::sync::{Arc, Mutex};

use tokio::task::JoinHandle;

use super::super::encoding::MAX_WAITING_TOKENS;
use super::*;

const SHAPE: EncoderShape = EncoderShape { dimensions: 16, max_tokens: 128, vocab_size: VOCAB as usize };

fn encoder() -> MockOptions {
    MockOptions { encoder: Some(SHAPE), ..mock() }
}

/// What a recording executor was asked, in order.
#[derive(Debug, Clone, PartialEq)]
enum Asked {
    Step,
    Encode(Vec<Vec<u32>>),
}

/// Notes what it is asked.
struct Recording(MockExecutor, Arc<Mutex<Vec<Asked>>>);

impl Executor for Recording {
    type Ticket = <MockExecutor as Executor>::Ticket;

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<Self::Ticket> {
        self.1.lock().unwrap().push(Asked::Step);
        self.0.submit(batch)
    }

    fn collect(&mut self, ticket: Self::Ticket) -> anyhow::Result<StepOutput> {
        self.0.collect(ticket)
    }

    fn encoder(&self) -> Option<EncoderShape> {
        self.0.encoder()
    }

    fn encode(&mut self, texts: &[&[u32]]) -> anyhow::Result<Vec<Vec<f32>>> {
        self.1.lock().unwrap().push(Asked::Encode(texts.iter().map(|text| text.to_vec()).collect()));
        self.0.encode(texts)
    }
}

fn recorded(mock: MockOptions) -> (EngineHandle, Arc<Mutex<Vec<Asked>>>) {
    let asked = Arc::new(Mutex::new(Vec::new()));
    let executor = Recording(MockExecutor::new(mock), Arc::clone(&asked));
    (Engine::start(options(), move || Ok(executor)).unwrap(), asked)
}

fn room(engine: &EngineHandle) -> usize {
    engine.encoder_room.available_permits()
}

fn ask(engine: &EngineHandle, texts: Vec<Vec<u32>>) -> JoinHandle<Result<Vec<Vec<f32>>, EncodeError>> {
    let engine = engine.clone();
    tokio::spawn(async move { engine.encode(texts).await })
}

fn alone(text: &[u32]) -> Vec<f32> {
    MockExecutor::new(encoder()).encode(&[text]).unwrap().remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_asked_at_once_everybody_gets_their_own_vectors_in_order() {
    let (engine, asked) = recorded(encoder());
    let mut random = fastrand::Rng::with_seed(5);
    let mut request = || -> Vec<Vec<u32>> {
        let mut text = || (0..random.usize(1..=128)).map(|_| random.u32(..VOCAB)).collect();
        (0..8).map(|_| text()).collect()
    };
    let clients: Vec<_> = (0..40)
        .map(|client| {
            let (engine, mut texts) = (engine.clone(), request());
            texts.truncate(client % 9);
            tokio::spawn(async move { (engine.encode(texts.clone()).await.unwrap(), texts) })
        })
        .collect();
    let mut total = 0;
    for client in clients {
        let (vectors, texts) = client.await.unwrap();
        let expected: Vec<Vec<f32>> = texts.iter().map(|text| alone(text)).collect();
        assert_eq!(vectors, expected);
        total += texts.len();
    }
    let mut encoded = 0;
    for step in asked.lock().unwrap().iter() {
        let Asked::Encode(texts) = step else { panic!("nothing was generated") };
        let width = texts.iter().map(Vec::len).max().unwrap();
        assert!(texts.len() == 1 || texts.len() * width <= ENCODER_TOKENS_PER_STEP, "{} of {width}", texts.len());
        encoded += texts.len();
    }
    assert_eq!(encoded, total);
    assert_eq!(room(&engine), MAX_WAITING_TOKENS);
}

#[tokio::test]
async fn an_engine_that_has_encoded_sleeps_again() {
    let (engine, asked) = recorded(encoder());
    engine.encode(vec![vec![1]]).await.unwrap();
    let cpu = thread_cpu_ticks("engine");
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(asked.lock().unwrap().len(), 1);
    assert!(thread_cpu_ticks("engine") <= cpu + 40, "engine threads of all tests together");
}

#[tokio::test]
async fn between_two_steps_of_a_stream_there_is_one_of_the_encoder() {
    let (engine, asked) = recorded(MockOptions { encoder: Some(SHAPE), ..slow(Duration::from_millis(1)) });
    let stream = engine.submit(request(vec![1], 60)).unwrap();
    until(|| engine.stats().running == 1).await;
    let (vectors, events) = tokio::join!(engine.encode(vec![vec![1; 128]; 40]), collect(stream));
    assert_eq!(vectors.unwrap().len(), 40);
    assert_eq!(tokens(&events).len(), 60);
    let asked = asked.lock().unwrap();
    let first = asked.iter().position(|step| *step != Asked::Step).unwrap();
    let last = asked.iter().rposition(|step| *step != Asked::Step).unwrap();
    assert!(asked[..first].len() < 40 && last > first + 20, "the two overlap");
    assert!(asked[first..=last].windows(2).all(|pair| pair.contains(&Asked::Step)));
}

#[tokio::test]
async fn a_small_request_does_not_wait_for_a_large_one() {
    let (engine, asked) = recorded(MockOptions { encoder: Some(SHAPE), ..slow(Duration::from_millis(1)) });
    let large = ask(&engine, vec![vec![1; 128]; 100]);
    until(|| !asked.lock().unwrap().is_empty()).await;
    assert_eq!(engine.encode(vec![vec![7, 8]]).await.unwrap(), [alone(&[7, 8])]);
    assert!(!large.is_finished());
    assert_eq!(large.await.unwrap().unwrap().len(), 100);
}

#[tokio::test]
async fn too_much_is_refused_and_dropping_gives_its_room_back() {
    let engine = start(MockOptions { encoder: Some(SHAPE), ..slow(Duration::from_millis(5)) });
    let half = vec![vec![1; 128]; MAX_WAITING_TOKENS / 256];
    let (first, second) = (ask(&engine, half.clone()), ask(&engine, half));
    until(|| room(&engine) == 0).await;
    assert_eq!(engine.encode(vec![vec![1]]).await, Err(EncodeError::Busy));
    first.abort();
    second.abort();
    until(|| room(&engine) == MAX_WAITING_TOKENS).await;
    assert_eq!(engine.encode(vec![vec![1]]).await.unwrap().len(), 1);
    let more = vec![vec![1; 128]; MAX_WAITING_TOKENS / 128 + 1];
    assert!(matches!(engine.encode(more).await, Err(EncodeError::Invalid(_))));
}

#[tokio::test]
async fn what_does_not_fit_the_encoder_never_reaches_it() {
    let (engine, asked) = recorded(encoder());
    for text in [vec![], vec![1; 129], vec![VOCAB]] {
        assert!(matches!(engine.encode(vec![vec![1], text]).await, Err(EncodeError::Invalid(_))));
    }
    assert_eq!(engine.encode(Vec::new()).await, Ok(Vec::new()));
    assert!(asked.lock().unwrap().is_empty());
    assert_eq!(start(mock()).encode(vec![vec![1]]).await, Err(EncodeError::NoEncoder));
}

#[tokio::test]
async fn a_failing_step_of_the_encoder_fails_its_texts_only() {
    let engine = start(MockOptions { failing_token: Some(13), ..encoder() });
    let stream = engine.submit(request(vec![1], 50)).unwrap();
    let failed = engine.encode(vec![vec![1, 13]]).await.unwrap_err();
    assert!(matches!(failed, EncodeError::Failed(message) if message.contains("asked to fail")));
    assert_eq!(engine.encode(vec![vec![12]]).await.unwrap(), [alone(&[12])]);
    assert_eq!(tokens(&collect(stream).await).len(), 50);
    assert_eq!(room(&engine), MAX_WAITING_TOKENS);
}

#[tokio::test]
async fn who_waits_hears_that_the_engine_ends() {
    let mock = MockOptions { encoder: Some(SHAPE), panicking_token: Some(13), ..slow(Duration::from_millis(5)) };
    let engine = start(mock.clone());
    let (beside, doomed) = tokio::join!(engine.encode(vec![vec![1; 128]; 100]), engine.encode(vec![vec![13]]));
    assert_eq!((beside, doomed), (Err(EncodeError::Stopped), Err(EncodeError::Stopped)));
    assert!(engine.failed().await.contains("asked to panic"));
    assert_eq!(engine.encode(vec![vec![1]]).await, Err(EncodeError::Stopped));

    let engine = start(mock.clone());
    let waits = ask(&engine, vec![vec![1; 128]; 20]);
    until(|| room(&engine) < MAX_WAITING_TOKENS).await;
    assert_eq!(engine.shutdown(Duration::from_secs(10)).await, EngineState::Stopped);
    assert_eq!(waits.await.unwrap().unwrap().len(), 20, "draining lets it finish");

    let engine = start(mock);
    let waits = ask(&engine, vec![vec![1; 128]; 500]);
    until(|| room(&engine) < MAX_WAITING_TOKENS).await;
    assert_eq!(engine.shutdown(Duration::from_millis(20)).await, EngineState::Stopped);
    assert_eq!(waits.await.unwrap(), Err(EncodeError::Stopped));
}

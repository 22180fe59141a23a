//! Several replicas behind one handle: who gets what, and how they end together.

use super::*;

fn start_all(mocks: Vec<MockOptions>) -> EngineHandle {
    let make = |mock| move || Ok(MockExecutor::new(mock));
    Engine::start_replicas(options(), mocks.into_iter().map(make).collect()).unwrap()
}

/// Two that take their time.
fn two() -> EngineHandle {
    start_all(vec![slow(Duration::from_millis(2)); 2])
}

/// Which of two replicas has it.
fn home(generation: &Generation) -> u64 {
    generation.id % 2
}

fn prompt(first: u32, len: u32) -> Vec<u32> {
    (first..first + len).map(|id| id % VOCAB).collect()
}

#[tokio::test]
async fn requests_spread_and_figures_add_up() {
    let engine = two();
    let inside: Vec<_> = (0..16).map(|i| engine.submit(request(prompt(i * 50, 40), 200)).unwrap()).collect();
    let homes: Vec<u64> = inside.iter().map(home).collect();
    assert_eq!(homes, [0, 1].repeat(8));
    let mut ids: Vec<u64> = inside.iter().map(|generation| generation.id).collect();
    ids.dedup();
    assert_eq!(ids.len(), 16);
    until(|| engine.stats().running == 16).await;
    assert_eq!((engine.stats().kv_blocks, engine.stats().waiting), (128, 0));
    for (generation, i) in inside.into_iter().zip(0..) {
        let answer = tokens(&collect(generation).await);
        assert_eq!(answer, MockExecutor::answer(&mock(), &prompt(i * 50, 40), 200));
    }
    until(|| engine.stats().running == 0).await;
    let stats = engine.stats();
    assert_eq!((stats.generation_tokens, stats.prompt_tokens, stats.kv_blocks_used), (3200, 640, 0));
}

#[tokio::test]
async fn a_conversation_stays_where_its_beginning_is_until_that_is_much_busier() {
    let engine = two();
    let _elsewhere = engine.submit(request(prompt(500, 20), 900)).unwrap();
    let first = engine.submit(request(prompt(0, 100), 5)).unwrap();
    assert_eq!(home(&first), 1);
    collect(first).await;
    until(|| engine.stats().running == 1).await;
    let mut inside = Vec::new();
    for further in 0..4 {
        inside.push(engine.submit(request(prompt(0, 120 + further), 800)).unwrap());
        assert_eq!(home(&inside[further as usize]), 1, "the first blocks are there");
    }
    until(|| engine.stats().prefix_hits >= 4 * 96).await;
    let other = engine.submit(request(prompt(300, 100), 800)).unwrap();
    assert_eq!(home(&other), 0, "nobody knows this one");
    let tenant = CacheScope { shared_tokens: 0, tenant: 9 };
    let salted = engine.submit(EngineRequest { scope: tenant, ..request(prompt(0, 120), 800) }).unwrap();
    assert_eq!(home(&salted), 0, "its blocks are not this tenant's");
    let homes: Vec<u64> = (0..8)
        .map(|_| {
            inside.push(engine.submit(request(prompt(0, 130), 800)).unwrap());
            home(inside.last().unwrap())
        })
        .collect();
    assert!(homes[0] == 1 && homes.contains(&0), "{homes:?}");
}

#[tokio::test]
async fn a_full_replica_is_passed_over_until_all_are_full() {
    let engine = start_all(vec![slow(Duration::from_millis(2)), slow(Duration::from_millis(20))]);
    let mut inside: Vec<_> = (0..32).map(|_| engine.submit(request(prompt(0, 40), 20)).unwrap()).collect();
    assert_eq!(inside.iter().map(home).sum::<u64>(), 16, "each runs eight, and eight wait there");
    assert!(matches!(engine.submit(request(prompt(0, 40), 20)), Err(SubmitError::QueueFull { .. })));
    let (slow, fast): (Vec<_>, Vec<_>) = inside.drain(..).partition(|generation| home(generation) == 1);
    for generation in fast {
        collect(generation).await;
    }
    assert!(engine.stats().waiting + engine.stats().running >= 8, "the other has hardly begun");
    assert_eq!(home(&engine.submit(request(prompt(0, 40), 1)).unwrap()), 0);
    drop(slow);
}

#[tokio::test]
async fn who_takes_over_reaches_the_replica_that_has_the_request() {
    let make = || move || Ok(MockExecutor::new(slow(Duration::from_millis(2))));
    let one_slot = EngineOptions { max_sequences: 1, ..options() };
    let engine = Engine::start_replicas(one_slot, vec![make(), make()]).unwrap();
    let submit = |id, max_tokens| engine.submit(request(vec![id], max_tokens)).unwrap();
    let running = [submit(1, 900), submit(2, 900)];
    until(|| engine.stats().running == 2).await;
    let [first, second] = [[submit(3, 20), submit(4, 20)], [submit(5, 20), submit(6, 20)]];
    assert_eq!([&first, &second].map(|pair| [home(&pair[0]), home(&pair[1])]), [[0, 1], [0, 1]]);
    for overtaking in &second {
        engine.take_over(overtaking.id, Standing { user: 5, weight: 1, priority: 1 });
    }
    drop(running);
    for (early, late) in first.into_iter().zip(second) {
        let (early, late) = (collect(early).await, collect(late).await);
        let waited = |events: &[TokenEvent]| match events[0] {
            TokenEvent::Started { queue_wait, .. } => queue_wait,
            _ => panic!("{events:?}"),
        };
        assert!(waited(&late) < waited(&early), "it went before who came first");
    }
}

#[tokio::test]
async fn a_replica_that_fails_fails_the_engine_and_ends_the_others() {
    let slow = slow(Duration::from_millis(2));
    let engine = start_all(vec![slow.clone(), MockOptions { panicking_token: Some(13), ..slow }]);
    let beside = engine.submit(request(vec![1], 900)).unwrap();
    let doomed = engine.submit(request(vec![13], 5)).unwrap();
    assert_eq!((home(&beside), home(&doomed)), (0, 1));
    assert_eq!(collect(doomed).await.last(), Some(&TokenEvent::Failed(EngineError::Stopped)));
    let message = engine.failed().await;
    assert!(message.contains("replica 2 of 2") && message.contains("asked to panic"), "{message}");
    assert_eq!(engine.submit(request(vec![1], 1)).unwrap_err(), SubmitError::Closed);
    let begin = Instant::now();
    assert!(matches!(engine.shutdown(Duration::from_mins(1)).await, EngineState::Failed(_)));
    assert!(begin.elapsed() < Duration::from_secs(1), "nobody is waited for");
    assert_eq!(collect(beside).await.last(), Some(&TokenEvent::Failed(EngineError::Stopped)));
}

#[tokio::test]
async fn all_drain_together() {
    let engine = two();
    let inside: Vec<_> = (0..6).map(|i| engine.submit(request(vec![i], 50)).unwrap()).collect();
    assert_eq!(engine.shutdown(Duration::from_secs(10)).await, EngineState::Stopped);
    for generation in inside {
        assert_eq!(tokens(&collect(generation).await).len(), 50);
    }
    let engine = two();
    let inside: Vec<_> = (0..6).map(|i| engine.submit(request(vec![i], 900)).unwrap()).collect();
    assert_eq!(engine.shutdown(Duration::from_millis(30)).await, EngineState::Stopped);
    for generation in inside {
        assert_eq!(collect(generation).await.last(), Some(&TokenEvent::Failed(EngineError::Stopped)));
    }
}

#[tokio::test]
async fn each_can_be_asked_and_the_first_one_encodes() {
    let shape = EncoderShape { dimensions: 16, max_tokens: 128, vocab_size: VOCAB as usize };
    let engine = start_all(vec![MockOptions { encoder: Some(shape), ..mock() }, mock(), mock()]);
    let generations = engine.submit_to_each(&request(vec![1], 3)).unwrap();
    let homes: Vec<u64> = generations.iter().map(|generation| generation.id % 3).collect();
    assert_eq!(homes, [0, 1, 2]);
    for generation in generations {
        assert_eq!(tokens(&collect(generation).await).len(), 3);
    }
    assert_eq!((engine.encoder(), engine.encode(vec![vec![1]]).await.unwrap().len()), (Some(shape), 1));
}

#[test]
fn one_that_cannot_be_started_is_an_error() {
    let make = |fails: bool| move || if fails { anyhow::bail!("no memory") } else { Ok(MockExecutor::new(mock())) };
    let error = Engine::start_replicas(options(), vec![make(false), make(true)]).unwrap_err();
    assert!(error.to_string().contains("no memory"));
    let none: Vec<fn() -> anyhow::Result<MockExecutor>> = Vec::new();
    assert!(Engine::start_replicas(options(), none).is_err());
}

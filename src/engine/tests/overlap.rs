//! The engine from outside where its steps overlap: what goes wrong while one is in flight, and who leaves meanwhile.

use std::sync::{Arc, atomic::AtomicBool};

use anyhow::ensure;

use super::*;

fn ahead(mock: MockOptions) -> MockOptions {
    MockOptions { steps_ahead: 1, ..mock }
}

fn is_failed_step(event: Option<&TokenEvent>) -> bool {
    matches!(event, Some(TokenEvent::Failed(EngineError::Step(_))))
}

async fn until_empty(engine: &EngineHandle) {
    until(|| {
        let EngineStats { running, waiting, kv_blocks_used, .. } = engine.stats();
        (running, waiting, kv_blocks_used) == (0, 0, 0)
    })
    .await;
}

#[tokio::test]
async fn answers_are_their_own_and_end_where_they_should() {
    let engine = start(ahead(slow(Duration::from_millis(1))));
    let submit = |i: usize| {
        let prompt: Vec<u32> = (i as u32..50).collect();
        let answer = MockExecutor::answer(&mock(), &prompt, 20 + i);
        let stop_token_ids = if i.is_multiple_of(2) { vec![answer[10 + i / 2]] } else { Vec::new() };
        let end = answer.iter().position(|id| stop_token_ids.contains(id)).unwrap_or(answer.len());
        let generation = engine.submit(EngineRequest { stop_token_ids, ..request(prompt, 20 + i) }).unwrap();
        (generation, answer[..end].to_vec())
    };
    let inside: Vec<(Generation, Vec<u32>)> = (0..14).map(submit).collect();
    for (generation, answer) in inside {
        assert_eq!(tokens(&collect(generation).await), answer);
    }
    until_empty(&engine).await;
    assert_eq!(engine.shutdown(Duration::from_secs(10)).await, EngineState::Stopped);
}

#[tokio::test]
async fn one_who_leaves_frees_its_blocks() {
    let engine = start(ahead(slow(Duration::from_millis(1))));
    let stays = engine.submit(request(vec![2; 40], 60)).unwrap();
    let leaves = engine.submit(request(vec![1; 64], 900)).unwrap();
    until(|| engine.stats().generation_tokens > 10).await;
    drop(leaves);
    assert_eq!(tokens(&collect(stays).await), MockExecutor::answer(&mock(), &[2; 40], 60));
    until_empty(&engine).await;
}

#[tokio::test]
async fn a_failing_step_ends_all_that_it_has_and_nobody_else() {
    let engine = start(MockOptions { failing_token: Some(13), ..ahead(slow(Duration::from_millis(2))) });
    let mut inside: Vec<Generation> = (0..3).map(|i| engine.submit(request(vec![i], 900)).unwrap()).collect();
    until(|| engine.stats().generation_tokens > 10).await;
    inside.push(engine.submit(request(vec![13], 900)).unwrap());
    for generation in inside {
        assert!(is_failed_step(collect(generation).await.last()));
    }
    assert_eq!(tokens(&collect(engine.submit(request(vec![12], 5)).unwrap()).await).len(), 5);
    until_empty(&engine).await;
    assert_eq!(engine.stats().failed_steps, 1);
}

/// Its device is lost: what is in flight does not come back, and nothing can be submitted any more.
struct Losing {
    executor: MockExecutor,
    is_there: Arc<AtomicBool>,
    /// Whether it can come back.
    for_good: bool,
}

impl Losing {
    fn ensure_there(&self) -> anyhow::Result<()> {
        ensure!(self.is_there.load(Ordering::Relaxed), "the device is lost");
        Ok(())
    }
}

impl Executor for Losing {
    type Ticket = <MockExecutor as Executor>::Ticket;

    fn max_steps_in_flight(&self) -> usize {
        self.executor.max_steps_in_flight()
    }

    fn is_fatal(&self, _: &anyhow::Error) -> bool {
        self.for_good
    }

    fn submit(&mut self, batch: &StepBatch) -> anyhow::Result<Self::Ticket> {
        let ticket = self.executor.submit(batch)?;
        self.ensure_there().map(|()| ticket)
    }

    fn collect(&mut self, ticket: Self::Ticket) -> anyhow::Result<StepOutput> {
        let output = self.executor.collect(ticket)?;
        self.ensure_there().map(|()| output)
    }
}

fn start_losing(is_there: &Arc<AtomicBool>, for_good: bool) -> EngineHandle {
    let executor = MockExecutor::new(ahead(slow(Duration::from_millis(1))));
    let executor = Losing { executor, is_there: Arc::clone(is_there), for_good };
    Engine::start(options(), move || Ok(executor)).unwrap()
}

#[tokio::test]
async fn a_device_that_is_lost_for_good_ends_the_engine_within_a_second() {
    let is_there = Arc::new(AtomicBool::new(true));
    let engine = start_losing(&is_there, true);
    // More than run: those who wait are told, too.
    let inside: Vec<Generation> = (0..14).map(|i| engine.submit(request(vec![i], 900)).unwrap()).collect();
    until(|| engine.stats().generation_tokens > 50).await;
    is_there.store(false, Ordering::Relaxed);
    let reason = tokio::time::timeout(Duration::from_secs(1), engine.failed()).await.unwrap();
    assert!(reason.contains("the device is lost"), "{reason}");
    for generation in inside {
        assert!(is_failed_step(collect(generation).await.last()));
    }
    assert!(matches!(engine.submit(request(vec![1], 5)), Err(SubmitError::Closed)));
}

#[tokio::test]
async fn a_lost_device_ends_everybody_with_an_error() {
    let is_there = Arc::new(AtomicBool::new(true));
    let engine = start_losing(&is_there, false);
    let inside: Vec<Generation> = (0..14).map(|i| engine.submit(request(vec![i], 900)).unwrap()).collect();
    until(|| engine.stats().generation_tokens > 50).await;
    is_there.store(false, Ordering::Relaxed);
    for generation in inside {
        assert!(is_failed_step(collect(generation).await.last()));
    }
    until_empty(&engine).await;
    is_there.store(true, Ordering::Relaxed);
    assert_eq!(tokens(&collect(engine.submit(request(vec![12], 5)).unwrap()).await).len(), 5);
}

#[tokio::test]
async fn a_panic_and_an_end_are_told_with_a_step_in_flight() {
    for panicking_token in [None, Some(13)] {
        let engine = start(MockOptions { panicking_token, ..ahead(slow(Duration::from_millis(5))) });
        let mut inside: Vec<Generation> = (0..12).map(|i| engine.submit(request(vec![i], 900)).unwrap()).collect();
        until(|| engine.stats().generation_tokens > 20).await;
        match panicking_token {
            Some(token) => {
                let doomed = EngineRequest { priority: 1, ..request(vec![token], 5) };
                inside.push(engine.submit(doomed).unwrap());
            }
            None => assert_eq!(engine.shutdown(Duration::from_millis(20)).await, EngineState::Stopped),
        }
        for generation in inside {
            assert_eq!(collect(generation).await.last(), Some(&TokenEvent::Failed(EngineError::Stopped)));
        }
    }
}

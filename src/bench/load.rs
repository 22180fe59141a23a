//! A closed loop: so many clients, each sending its next request when the last one is answered.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::client::{Answer, Client, RequestError};

/// What a run gave.
#[derive(Debug, Default)]
pub struct Load {
    /// Answered requests, in the order of their ends.
    pub answers: Vec<Answer>,
    /// Failed ones.
    pub errors: Vec<RequestError>,
    /// From the first request to the last answer.
    pub wall: Duration,
}

/// Sends every prompt once through `clients` clients.
pub fn run(client: &Client, clients: usize, prompts: Vec<String>, max_tokens: usize) -> Load {
    let waiting = Mutex::new(VecDeque::from(prompts));
    let results = Mutex::new(Load::default());
    let begin = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..clients {
            scope.spawn(|| {
                loop {
                    let Some(prompt) = lock(&waiting).pop_front() else { return };
                    let outcome = client.ask(&prompt, max_tokens, &mut |_| ());
                    let mut results = lock(&results);
                    match outcome {
                        Ok(answer) => results.answers.push(answer),
                        Err(error) => results.errors.push(error),
                    }
                }
            });
        }
    });
    let mut load = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    load.wall = begin.elapsed();
    load
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

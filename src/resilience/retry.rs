//! Asking again: exponential back-off with full jitter, capped in number and in delay. Only for calls that may be made
//! twice.

use std::time::Duration;

/// How often and after how long a call is made again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retry {
    /// `RETRY_ENABLED`: false makes every call once.
    pub enabled: bool,
    /// `RETRY_MAX_ATTEMPTS`: calls at most, the first one among them.
    pub max_attempts: u32,
    /// `RETRY_BASE_DELAY`: the first delay at most; each further one may be twice as long.
    pub base_delay: Duration,
    /// `RETRY_MAX_DELAY`: no delay is longer.
    pub max_delay: Duration,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            enabled: true,
            max_attempts: 3,
            base_delay: Duration::from_millis(100),
            max_delay: Duration::from_secs(5),
        }
    }
}

impl Retry {
    /// Makes an idempotent call until it succeeds, fails for good or has been made often enough.
    ///
    /// # Errors
    /// The last call's.
    pub async fn run<T, E, F: Future<Output = Result<T, E>>>(
        &self,
        is_transient: impl Fn(&E) -> bool,
        mut call: impl FnMut() -> F,
    ) -> Result<T, E> {
        let mut made = 0;
        loop {
            let outcome = call().await;
            made += 1;
            match outcome {
                Err(error) if self.enabled && made < self.max_attempts && is_transient(&error) => {
                    tokio::time::sleep(self.longest_delay(made).mul_f64(rand::random())).await;
                }
                outcome => return outcome,
            }
        }
    }

    /// The upper end of the delay after so many calls; the delay is drawn evenly from zero to it.
    fn longest_delay(&self, made: u32) -> Duration {
        let doubled = 2_u32.saturating_pow(made.saturating_sub(1));
        self.base_delay.saturating_mul(doubled).min(self.max_delay)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn quick() -> Retry {
        Retry { base_delay: Duration::from_millis(1), max_delay: Duration::from_millis(4), ..Retry::default() }
    }

    /// The outcome of a call that fails so often, and how often it was made.
    async fn made(retry: Retry, failures: u32, transient: bool) -> (Result<u32, u32>, u32) {
        let calls = Cell::new(0);
        let call = || async {
            calls.set(calls.get() + 1);
            if calls.get() > failures { Ok(calls.get()) } else { Err(calls.get()) }
        };
        (retry.run(|_| transient, call).await, calls.get())
    }

    #[tokio::test]
    async fn only_what_passes_is_tried_again_and_not_for_ever() {
        assert_eq!(made(quick(), 0, true).await, (Ok(1), 1));
        assert_eq!(made(quick(), 2, true).await, (Ok(3), 3));
        assert_eq!(made(quick(), 9, true).await, (Err(3), 3));
        assert_eq!(made(quick(), 9, false).await, (Err(1), 1));
        assert_eq!(made(Retry { enabled: false, ..quick() }, 9, true).await, (Err(1), 1));
    }

    #[test]
    fn delays_double_up_to_the_longest() {
        let delays: Vec<u128> = (1..6).map(|made| quick().longest_delay(made).as_millis()).collect();
        assert_eq!(delays, [1, 2, 4, 4, 4]);
        assert_eq!(Retry::default().longest_delay(u32::MAX), Duration::from_secs(5));
    }
}

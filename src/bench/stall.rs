//! How long running streams stand still while a long prompt arrives.

use std::sync::mpsc;
use std::time::Duration;

use serde::Serialize;

use super::client::{Answer, Client, RequestError};
use super::prompt::Prompts;
use super::report::Spread;

/// Text chunks that every running stream has sent before the long prompt goes out.
const CHUNKS_BEFORE: usize = 16;

/// What to measure.
#[derive(Debug, Clone, Copy)]
pub struct Stall {
    /// Running streams.
    pub streams: usize,
    /// Prompt tokens of each of them.
    pub prompt_tokens: usize,
    /// Tokens that each of them generates; must outlast the long prompt.
    pub output_tokens: usize,
    /// Tokens of the prompt that arrives.
    pub long_prompt_tokens: usize,
}

/// What was measured, milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct StallReport {
    /// Tokens of the long prompt by the server's count.
    pub long_prompt_tokens: usize,
    /// The longest gap of a running stream that overlaps the long prompt's time to first token.
    pub worst_gap_ms: f64,
    /// All such gaps.
    pub gaps_ms: Option<Spread>,
    /// Gaps of the same streams outside that time.
    pub undisturbed_gaps_ms: Option<Spread>,
    /// The long prompt's own time to first token.
    pub long_prompt_ttft_ms: f64,
}

/// Runs the streams, sends the long prompt when all are under way, and looks at their gaps.
pub fn measure_stall(client: &Client, prompts: &mut Prompts, stall: Stall) -> Result<StallReport, RequestError> {
    let running = prompts.batch(stall.streams, stall.prompt_tokens, 0);
    let long = prompts.of_tokens(stall.long_prompt_tokens);
    let (under_way, started) = mpsc::channel();
    std::thread::scope(|scope| {
        let streams: Vec<_> = running
            .into_iter()
            .map(|prompt| {
                let under_way = under_way.clone();
                scope.spawn(move || {
                    client.ask(&prompt, stall.output_tokens, &mut |chunks| {
                        if chunks == CHUNKS_BEFORE {
                            let _ = under_way.send(());
                        }
                    })
                })
            })
            .collect();
        drop(under_way);
        for _ in 0..stall.streams {
            let _ = started.recv(); // ends at once for a stream that failed
        }
        let long = client.ask(&long, 1, &mut |_| ())?;
        let mut answers = Vec::new();
        for stream in streams {
            answers.push(stream.join().map_err(|_| RequestError::Stream("a client thread panicked".into()))??);
        }
        compare(&answers, &long)
    })
}

fn compare(streams: &[Answer], long: &Answer) -> Result<StallReport, RequestError> {
    let first = long.chunks.first().copied().unwrap_or(long.end);
    if streams.iter().any(|stream| stream.end < first) {
        let hint = "a stream ended before the long prompt's first token: ask for more output tokens";
        return Err(RequestError::Stream(hint.into()));
    }
    let pairs = || streams.iter().flat_map(|stream| stream.chunks.windows(2));
    let overlaps = |pair: &&[std::time::Instant]| pair[1] > long.start && pair[0] < first;
    let during = || pairs().filter(overlaps).map(|pair| pair[1].duration_since(pair[0]));
    let outside = pairs().filter(|pair| !overlaps(pair)).map(|pair| pair[1].duration_since(pair[0]));
    Ok(StallReport {
        long_prompt_tokens: long.prompt_tokens,
        worst_gap_ms: during().max().map_or(0.0, millis),
        gaps_ms: Spread::of(during().map(millis)),
        undisturbed_gaps_ms: Spread::of(outside.map(millis)),
        long_prompt_ttft_ms: millis(long.ttft()),
    })
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

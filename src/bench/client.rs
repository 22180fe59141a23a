//! One streaming chat request over HTTP and the times of its chunks.

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::json;

/// How requests are sent.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    /// Server, with or without `/v1`.
    pub url: String,
    /// `model` of the body.
    pub model: String,
    /// Bearer token.
    pub api_key: Option<String>,
    /// `temperature` of the body.
    pub temperature: f32,
    /// Longest time for one request.
    pub timeout: Duration,
}

/// Sends requests, each over a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    agent: ureq::Agent,
    endpoint: String,
    options: ClientOptions,
}

/// Why a request gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No connection, or it broke, or time was up.
    #[error("{0}")]
    Transport(String),
    /// The server refused.
    #[error("HTTP {status}: {body}")]
    Status {
        /// The status code.
        status: u16,
        /// The beginning of the body.
        body: String,
    },
    /// The stream carried an error, broke off, or held no token.
    #[error("{0}")]
    Stream(String),
}

/// What one request gave.
#[derive(Debug, Clone)]
pub struct Answer {
    /// When the request was sent.
    pub start: Instant,
    /// When the stream ended.
    pub end: Instant,
    /// When each chunk with text arrived.
    pub chunks: Vec<Instant>,
    /// Prompt length by the server's count; 0 where it sends none.
    pub prompt_tokens: usize,
    /// Of these, tokens from the server's cache.
    pub cached_tokens: usize,
    /// Tokens generated; chunks with text where the server sends no count.
    pub completion_tokens: usize,
    /// The text.
    pub text: String,
}

impl Answer {
    /// Time to first token.
    pub fn ttft(&self) -> Duration {
        self.chunks.first().unwrap_or(&self.end).duration_since(self.start)
    }

    /// Gaps between following chunks.
    pub fn gaps(&self) -> impl Iterator<Item = Duration> {
        self.chunks.windows(2).map(|pair| pair[1].duration_since(pair[0]))
    }

    /// Tokens per second after the first one.
    pub fn decode_rate(&self) -> Option<f64> {
        let spent = self.chunks.last()?.duration_since(*self.chunks.first()?).as_secs_f64();
        (self.completion_tokens > 1 && spent > 0.0).then(|| (self.completion_tokens - 1) as f64 / spent)
    }

    /// Computed prompt tokens per second until the first token.
    pub fn prefill_rate(&self) -> Option<f64> {
        let computed = self.prompt_tokens.saturating_sub(self.cached_tokens);
        let spent = self.ttft().as_secs_f64();
        (computed > 0 && spent > 0.0).then(|| computed as f64 / spent)
    }
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
    error: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Delta,
}

/// Thinking models put some of their text into a field of its own.
#[derive(Default, Deserialize)]
struct Delta {
    content: Option<String>,
    reasoning_content: Option<String>,
}

#[derive(Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: usize,
    #[serde(default)]
    completion_tokens: usize,
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Deserialize)]
struct PromptDetails {
    cached_tokens: Option<usize>,
}

impl Client {
    /// A client of this server.
    pub fn new(options: ClientOptions) -> Self {
        let base = options.url.trim_end_matches('/');
        let base = if base.contains("://") { base.to_owned() } else { format!("http://{base}") };
        let base = base.strip_suffix("/v1").unwrap_or(&base);
        let endpoint = format!("{base}/v1/chat/completions");
        let agent = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .timeout_global(Some(options.timeout))
            // A kept connection may be closed by the server just as the next request goes out.
            .max_idle_connections(0)
            .build()
            .into();
        Self { agent, endpoint, options }
    }

    /// Sends one request for exactly `max_tokens` tokens and reads its stream to the end; `on_chunk` hears the number of
    /// text chunks so far.
    pub fn ask(
        &self,
        prompt: &str,
        max_tokens: usize,
        on_chunk: &mut dyn FnMut(usize),
    ) -> Result<Answer, RequestError> {
        let body = json!({
            "model": self.options.model,
            "messages": [{ "role": "user", "content": prompt }],
            "max_tokens": max_tokens,
            "min_tokens": max_tokens,
            "ignore_eos": true,
            "temperature": self.options.temperature,
            "stream": true,
            "stream_options": { "include_usage": true },
        });
        let mut request = self.agent.post(&self.endpoint).header("accept", "text/event-stream");
        if let Some(key) = &self.options.api_key {
            request = request.header("authorization", format!("Bearer {key}"));
        }
        let start = Instant::now();
        let response = request.send_json(&body).map_err(|e| RequestError::Transport(e.to_string()))?;
        let status = response.status().as_u16();
        let reader = response.into_body().into_reader();
        if status != 200 {
            let mut text = Vec::new();
            let _ = reader.take(400).read_to_end(&mut text);
            return Err(RequestError::Status { status, body: String::from_utf8_lossy(&text).trim().to_owned() });
        }
        read_stream(BufReader::new(reader), start, on_chunk)
    }
}

/// Reads server-sent events until `[DONE]`.
pub(super) fn read_stream(
    reader: impl BufRead,
    start: Instant,
    on_chunk: &mut dyn FnMut(usize),
) -> Result<Answer, RequestError> {
    let mut answer = Answer {
        start,
        end: start,
        chunks: Vec::new(),
        prompt_tokens: 0,
        cached_tokens: 0,
        completion_tokens: 0,
        text: String::new(),
    };
    let mut done = false;
    for line in reader.lines() {
        let line = line.map_err(|e| RequestError::Transport(format!("the stream broke off: {e}")))?;
        let Some(data) = line.strip_prefix("data:").map(str::trim) else { continue };
        if data == "[DONE]" {
            done = true;
            continue;
        }
        answer.take(data, on_chunk)?;
    }
    answer.end = Instant::now();
    if !done {
        return Err(RequestError::Stream("the stream ended without [DONE]".into()));
    }
    if answer.completion_tokens == 0 {
        answer.completion_tokens = answer.chunks.len();
    }
    if answer.completion_tokens == 0 {
        return Err(RequestError::Stream("the stream held no token".into()));
    }
    Ok(answer)
}

impl Answer {
    fn take(&mut self, data: &str, on_chunk: &mut dyn FnMut(usize)) -> Result<(), RequestError> {
        let chunk: Chunk =
            serde_json::from_str(data).map_err(|e| RequestError::Stream(format!("a chunk is not JSON: {e}")))?;
        if let Some(error) = chunk.error {
            return Err(RequestError::Stream(format!("an error in mid-stream: {error}")));
        }
        let before = self.text.len();
        for Choice { delta } in chunk.choices {
            self.text.extend([delta.content, delta.reasoning_content].into_iter().flatten());
        }
        if self.text.len() > before {
            self.chunks.push(Instant::now());
            on_chunk(self.chunks.len());
        }
        if let Some(usage) = chunk.usage {
            self.prompt_tokens = usage.prompt_tokens;
            self.completion_tokens = usage.completion_tokens;
            self.cached_tokens = usage.prompt_tokens_details.and_then(|d| d.cached_tokens).unwrap_or(0);
        }
        Ok(())
    }
}

//! `POST /v1/completions`: plain continuation of text or token ids, streaming or not.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};

use super::answer::{Chunks, Gathered, Head, Manner, gather, refusal, tell, usage_of};
use super::completion_types::{Completion, CompletionChoice, CompletionRequest, CompletionRequestBody};
use super::finish_reason;
use super::usage::{CompletionLogprobs, Usage};
use crate::generate::{Finish, Generator, Prompt, TokenText};
use crate::server::AppState;
use crate::server::body::JsonBody;
use crate::server::client::Client;
use crate::server::error::{ApiError, ErrorBody};
use crate::server::sse;
use crate::server::terms::with_terms;

/// Continue a text.
#[utoipa::path(
    post, path = "/v1/completions", tag = "OpenAI",
    request_body = CompletionRequestBody,
    responses(
        (status = 200, description = "The answer; with `stream`, server-sent events of `Completion` and then `[DONE]`",
            content((Completion = "application/json"), (Completion = "text/event-stream"))),
        (status = "4XX", description = "The request cannot be answered as asked", body = ErrorBody),
        (status = "5XX", description = "The server failed, is overloaded, loading or stopping", body = ErrorBody),
    )
)]
pub async fn completions(
    State(state): State<AppState>,
    client: Client,
    JsonBody(body): JsonBody<CompletionRequest>,
) -> Result<Response, ApiError> {
    let generator = client.generator(&state, body.options.model.as_deref())?;
    let choices = body.options.choices;
    let count = choices.saturating_mul(body.requests.len());
    state.check_choices(if choices > 1 { "n" } else { "prompt" }, count)?;
    let refused = |error| refusal(error, "prompt");
    let echo = if body.echo { Some(prompt_texts(generator, &body)) } else { None };
    let with_logprobs = body.requests.first().is_some_and(|request| request.logprobs.is_some());
    let caller = client.caller(&state, body.options.user.as_deref(), body.options.user_id).await?;
    let answers = generator.answer(&state.gate, caller, body.requests, choices).await.map_err(refused)?;
    let terms = answers.terms;
    let style = Style {
        head: Head::new("cmpl", &client.request_id, generator.model()),
        echo,
        choices,
        with_logprobs,
        with_usage: body.options.include_usage,
    };
    let response = if body.options.stream {
        let offsets = vec![0; count];
        let how = Manner { count, choices, keep_alive: state.config.keep_alive, language: client.language };
        sse::respond(|events| tell(events, answers, CompletionChunks { style, offsets }, how))
    } else {
        let gathered = gather(answers, count).await.map_err(refused)?;
        Json(style.completion(gathered)).into_response()
    };
    Ok(with_terms(response, &terms))
}

fn prompt_texts(generator: &Generator, body: &CompletionRequest) -> Vec<String> {
    let text = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.clone(),
        Prompt::Tokens(ids) => generator.model().tokenizer.decode(ids),
        Prompt::Chat(_) => String::new(),
    };
    body.requests.iter().map(|request| text(&request.prompt)).collect()
}

/// How this request's answers are told.
struct Style {
    head: Head,
    /// The prompts' texts, to begin the answers with.
    echo: Option<Vec<String>>,
    choices: usize,
    with_logprobs: bool,
    with_usage: bool,
}

impl Style {
    fn completion(&self, gathered: Vec<Gathered>) -> Completion {
        let usage = usage_of(&gathered, self.choices);
        let choices = gathered.into_iter().enumerate().map(|(index, answer)| self.choice(index, answer)).collect();
        self.answer(choices, Some(Some(usage)))
    }

    fn choice(&self, index: usize, answer: Gathered) -> CompletionChoice {
        let tokens = answer.prompt.into_iter().chain(answer.tokens).collect();
        CompletionChoice {
            index,
            text: self.echoed(index) + &answer.text,
            logprobs: self.with_logprobs.then(|| CompletionLogprobs::new(tokens, &mut 0)),
            finish_reason: answer.end.map(|(finish, _)| finish_reason(finish)),
        }
    }

    fn echoed(&self, index: usize) -> String {
        self.echo.as_ref().map(|prompts| prompts[index / self.choices].clone()).unwrap_or_default()
    }

    #[expect(clippy::option_option, reason = "absent, null and present are three things on the wire")]
    fn answer(&self, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: "text_completion",
            created: self.head.created,
            model: self.head.model.clone(),
            system_fingerprint: self.head.fingerprint.clone(),
            choices,
            usage,
        }
    }
}

struct CompletionChunks {
    style: Style,
    /// Characters told of each answer's tokens.
    offsets: Vec<usize>,
}

impl CompletionChunks {
    fn chunk(&mut self, index: usize, text: String, tokens: Vec<TokenText>, finish: Option<Finish>) -> Completion {
        let logprobs = (!tokens.is_empty()).then(|| CompletionLogprobs::new(tokens, &mut self.offsets[index]));
        let choice = CompletionChoice { index, text, logprobs, finish_reason: finish.map(finish_reason) };
        self.style.answer(vec![choice], self.style.with_usage.then_some(None))
    }
}

impl Chunks for CompletionChunks {
    type Chunk = Completion;

    /// An echoed prompt; where its tokens are told too, it waits for them.
    fn open(&mut self, index: usize) -> Option<Completion> {
        (self.style.echo.is_some() && !self.style.with_logprobs)
            .then(|| self.chunk(index, self.style.echoed(index), Vec::new(), None))
    }

    fn prompt(&mut self, index: usize, tokens: Vec<TokenText>) -> Option<Completion> {
        Some(self.chunk(index, self.style.echoed(index), tokens, None))
    }

    fn text(&mut self, index: usize, text: String, tokens: Vec<TokenText>) -> Option<Completion> {
        Some(self.chunk(index, text, tokens, None))
    }

    fn done(&mut self, index: usize, finish: Finish) -> Completion {
        self.chunk(index, String::new(), Vec::new(), Some(finish))
    }

    fn usage(&mut self, usage: Usage) -> Option<Completion> {
        self.style.with_usage.then(|| self.style.answer(Vec::new(), Some(Some(usage))))
    }
}

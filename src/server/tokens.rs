//! `POST /tokenize` and `POST /detokenize`.

use axum::Json;
use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::AppState;
use super::body::{FromBody, JsonBody, fields};
use super::error::{ApiError, ErrorBody};
use super::problem::{Problem, Reason};

/// The body of `/tokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct TokenizeBody {
    /// The text.
    pub content: String,
    /// Put the beginning-of-text token in front where the model wants one.
    pub add_special: Option<bool>,
    /// Answer with each token's text too.
    pub with_pieces: Option<bool>,
}

/// The tokens of a text.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokens {
    /// Token ids, or with `with_pieces` ids and texts.
    pub tokens: Vec<TokenForm>,
}

/// A token id alone or with its text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum TokenForm {
    /// The id.
    Id(u32),
    /// The id and the text.
    Piece(TokenPiece),
}

/// A token and its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenPiece {
    /// The id.
    pub id: u32,
    /// The text; the bytes as numbers where they are no whole characters.
    pub piece: PieceForm,
}

/// What a token writes.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum PieceForm {
    /// Whole characters.
    Text(String),
    /// Parts of a character.
    Bytes(Vec<u8>),
}

/// The body of `/detokenize`.
#[derive(Debug, Deserialize, ToSchema)]
pub struct DetokenizeBody {
    /// Token ids.
    pub tokens: Vec<u32>,
}

/// A text.
#[derive(Debug, Serialize, ToSchema)]
pub struct Text {
    /// The text.
    pub content: String,
}

impl FromBody for TokenizeBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

impl FromBody for DetokenizeBody {
    fn from_body(text: &str) -> Result<Self, ApiError> {
        fields(text)
    }
}

/// Cut a text into tokens. Control tokens written in it stay text.
#[utoipa::path(
    post, path = "/tokenize", tag = "Steppe",
    request_body = TokenizeBody,
    responses(
        (status = 200, description = "The tokens", body = Tokens),
        (status = "4XX", description = "The body is not valid", body = ErrorBody),
        (status = "5XX", description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn tokenize(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<TokenizeBody>,
) -> Result<Json<Tokens>, ApiError> {
    let tokenizer = state.generator()?.model().tokenizer.clone();
    let work = move || {
        let malformed =
            |error: crate::generate::TextError| ApiError::about("content", Problem::Malformed(error.to_string()));
        let ids = tokenizer.encode(&body.content, body.add_special.unwrap_or(false)).map_err(malformed)?;
        if !body.with_pieces.unwrap_or(false) {
            return Ok(Json(Tokens { tokens: ids.into_iter().map(TokenForm::Id).collect() }));
        }
        let piece = |id| {
            let bytes = tokenizer.token_bytes(id).to_vec();
            let piece = String::from_utf8(bytes).map_or_else(|e| PieceForm::Bytes(e.into_bytes()), PieceForm::Text);
            TokenForm::Piece(TokenPiece { id, piece })
        };
        Ok(Json(Tokens { tokens: ids.into_iter().map(piece).collect() }))
    };
    tokio::task::spawn_blocking(work).await.unwrap_or(Err(Problem::Internal.into()))
}

/// Put tokens together into a text; control tokens are left out.
#[utoipa::path(
    post, path = "/detokenize", tag = "Steppe",
    request_body = DetokenizeBody,
    responses(
        (status = 200, description = "The text", body = Text),
        (status = "4XX", description = "The body is not valid", body = ErrorBody),
        (status = "5XX", description = "Loading or stopping", body = ErrorBody),
    )
)]
pub async fn detokenize(
    State(state): State<AppState>,
    JsonBody(body): JsonBody<DetokenizeBody>,
) -> Result<Json<Text>, ApiError> {
    let model = state.generator()?;
    let vocabulary = model.model().vocab_size;
    if let Some(&id) = body.tokens.iter().find(|id| **id as usize >= vocabulary) {
        return Err(ApiError::invalid("tokens", Reason::TokenId { id: id.into(), vocabulary }));
    }
    Ok(Json(Text { content: model.model().tokenizer.decode(&body.tokens) }))
}

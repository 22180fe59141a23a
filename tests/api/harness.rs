//! A server on a free port over the mock executor, with a toy tokenizer of one token per byte and recorded answers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use models::{GgufVocabulary, TokenKind, TokenizerSource};
use serde_json::{Value as Json, json};
use steppe::config::{AuthConfig, Config, DirectoryConfig, GenerationConfig, IssuerConfig, Sources, TlsFiles};
use steppe::engine::{EncoderShape, Engine, EngineHandle, EngineOptions, MockExecutor, MockOptions, StepCost};
use steppe::generate::{self, EmbeddingModel, Generator};
use steppe::manifest::{Manifest, SamplingDefaults};
use steppe::server::{AppState, Tls, serve};
use steppe::startup::{self, Machine, Report};
use steppe::telemetry::Metrics;
use steppe::text::{ChatTemplate, Conversation, EncoderTokenizer, Tokenizer};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const MODEL: &str = "org/toy:1b";
/// `<|im_end|>`
pub const END: u32 = 257;
const VOCABULARY: usize = 260;

/// What a test wants of its server.
pub struct Setup {
    pub mock: MockOptions,
    pub options: EngineOptions,
    pub manifest: Manifest,
    pub max_body: usize,
    pub receive: Duration,
    pub cors_origins: Vec<String>,
    pub allowed_hosts: Vec<String>,
    pub keep_alive: Duration,
    pub timeout: Duration,
    /// Further keys of the configuration.
    pub settings: Vec<(&'static str, &'static str)>,
    pub tls: Option<TlsFiles>,
    /// None asks for no credentials.
    pub auth: Option<AuthConfig>,
    pub directory: Option<DirectoryConfig>,
    pub issuer: Option<IssuerConfig>,
    pub tokenizer: Arc<Tokenizer>,
    template: Arc<ChatTemplate>,
}

impl Setup {
    pub fn new() -> Self {
        let tokenizer = Arc::new(toy_tokenizer());
        let template = Arc::new(ChatTemplate::select(Some("chatml"), None, &tokenizer).unwrap());
        let num_blocks = 64;
        Self {
            mock: MockOptions {
                num_blocks,
                // Random answers are letters.
                vocab_size: 128,
                ..MockOptions::default()
            },
            options: EngineOptions {
                max_tokens_per_step: 256,
                max_sequences: 8,
                num_blocks,
                max_context: 512,
                vocab_size: VOCABULARY,
                queue_capacity: 4,
                max_stall: Duration::from_millis(100),
                prefix_cache: true,
                speculation: true,
                seed: 1,
            },
            manifest: Manifest::default(),
            max_body: 64 * 1024,
            receive: Duration::from_mins(1),
            cors_origins: Vec::new(),
            allowed_hosts: Vec::new(),
            keep_alive: Duration::from_secs(15),
            timeout: Duration::from_mins(1),
            settings: Vec::new(),
            tls: None,
            auth: None,
            directory: None,
            issuer: None,
            tokenizer,
            template,
        }
    }

    /// Each step takes so long.
    pub fn slow(mut self, step: Duration) -> Self {
        self.mock.cost = StepCost { step, ..StepCost::default() };
        self
    }

    /// There is an embedding model: texts are as near as the letters they share.
    pub fn embeds(mut self) -> Self {
        self.mock.encoder = Some(EncoderShape { dimensions: 64, max_tokens: 128, vocab_size: VOCABULARY });
        self.settings.push(("embeddings.model", "toy"));
        self
    }

    pub fn chat_ids(&self, messages: &[Json]) -> Vec<u32> {
        let conversation =
            Conversation { messages: messages.to_vec(), add_generation_prompt: true, ..Conversation::default() };
        self.tokenizer.encode_prompt(&self.template.render(&conversation).unwrap()).unwrap()
    }

    /// The model answers `answer` to this one user message, and ends.
    pub fn chat(mut self, user: &str, answer: &str) -> Self {
        let prompt = self.chat_ids(&[json!({"role": "user", "content": user})]);
        self.mock.replay.insert(prompt, ids(answer));
        self
    }

    /// The model continues `prompt` with `answer`, and ends.
    pub fn completion(mut self, prompt: &str, answer: &str) -> Self {
        let prompt = self.tokenizer.encode(prompt, true).unwrap();
        self.mock.replay.insert(prompt, ids(answer));
        self
    }

    /// A server whose model is loaded.
    pub async fn start(self) -> TestServer {
        let (server, generator) = Box::pin(self.load()).await;
        server.state.start(generator);
        server
    }

    /// The mock in the model's place.
    pub fn generator(self, metrics: &Metrics) -> Generator {
        let mock = self.mock;
        let embedding_model = mock.encoder.map(embedding_model);
        let context = self.options.max_context;
        let engine = Engine::start(self.options, move || Ok(MockExecutor::new(mock))).unwrap();
        let model = generate::ServedModel {
            id: MODEL.into(),
            aliases: vec!["default".into()],
            fingerprint: "fp_test".into(),
            created: 1_700_000_000,
            manifest: self.manifest,
            file_sampling: SamplingDefaults::default(),
            context,
            vocab_size: VOCABULARY,
            end_ids: vec![END],
            shared_tokens: OnceLock::new(),
            template: Ok(ChatTemplate::select(Some("chatml"), None, &self.tokenizer).unwrap()),
            tokenizer: self.tokenizer,
        };
        let limits = GenerationConfig { default_max_tokens: 64, max_choices: 4, timeout: self.timeout };
        Generator::new(model, engine, limits, metrics.for_model(MODEL)).with_embeddings(embedding_model)
    }

    /// A server that answers `/health` but whose model is not there yet.
    pub async fn load(self) -> (TestServer, Generator) {
        let metrics = Metrics::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let mut config = config(folder.path(), &self.settings);
        config.server.max_body = self.max_body;
        config.server.receive = self.receive;
        config.server.keep_alive = self.keep_alive;
        config.server.cors_origins.clone_from(&self.cors_origins);
        config.server.allowed_hosts.clone_from(&self.allowed_hosts);
        config.generation.max_choices = 4;
        config.server.tls.clone_from(&self.tls);
        let tls = self.tls.as_ref().map(|files| Tls::open(files).unwrap());
        config.auth = self.auth.clone().unwrap_or(config.auth);
        config.directory = self.directory.clone();
        config.issuer = self.issuer.clone();
        let state = startup::open_gateway(&config, metrics.clone()).await.unwrap();
        let generator = self.generator(&metrics);
        let engine = generator.engine().clone();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let until = async {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(serve(listener, tls, state.clone(), until));
        (TestServer { address, state, engine, serving, stop, _folder: folder }, generator)
    }
}

/// A running server; it ends with the test.
pub struct TestServer {
    pub address: SocketAddr,
    pub state: AppState,
    pub engine: EngineHandle,
    serving: JoinHandle<()>,
    stop: oneshot::Sender<()>,
    _folder: TempDir,
}

impl TestServer {
    /// Waits until nothing runs and every block is back; fails after two seconds.
    pub async fn becomes_idle(&self) {
        for _ in 0..400 {
            let stats = self.engine.stats();
            if stats.running == 0 && stats.waiting == 0 && stats.kv_blocks_used == 0 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("still busy: {:?}", self.engine.stats());
    }

    /// Waits until this many sequences run.
    pub async fn runs(&self, count: usize) {
        for _ in 0..400 {
            if self.engine.stats().running == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never ran {count}: {:?}", self.engine.stats());
    }

    /// Waits until this many requests wait for their turn.
    pub async fn waits(&self, count: usize) {
        for _ in 0..400 {
            if self.engine.stats().waiting == count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("never waited {count}: {:?}", self.engine.stats());
    }

    /// Closes the listener and waits for the last answer.
    pub async fn close(self) {
        self.stop.send(()).unwrap();
        self.serving.await.unwrap();
    }
}

/// The configuration of a server that asks for no credentials and keeps everything in `folder`.
pub fn config(folder: &Path, further: &[(&str, &str)]) -> Config {
    let data = folder.to_str().unwrap();
    let own = [("server.port", "0"), ("auth.required", "false"), ("data.dir", data)];
    let flag = |&(key, value): &(&str, &str)| (format!("--set {key}"), key.to_owned(), value.to_owned());
    let flags = own.iter().chain(further).map(flag).collect();
    steppe::config::load(&Sources { flags, ..Sources::default() }).unwrap().config
}

/// A model of files behind the API.
pub struct ServedModel {
    pub address: SocketAddr,
    pub engine: EngineHandle,
    _folder: TempDir,
}

/// Loads the model that `settings` name and serves it until the test ends.
pub async fn serve_model(settings: &[(&str, &str)]) -> anyhow::Result<ServedModel> {
    let folder = tempfile::tempdir()?;
    let config = config(folder.path(), settings);
    let metrics = Metrics::new()?;
    let generator = startup::load(&config, Machine::detect(), metrics.clone(), Report::default()).await?;
    let engine = generator.engine().clone();
    let state = startup::open_gateway(&config, metrics).await?;
    state.start(generator);
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(serve(listener, None, state, std::future::pending()));
    Ok(ServedModel { address, engine, _folder: folder })
}

/// A chat body with one user message.
pub fn ask(user: &str) -> Json {
    json!({"messages": [{"role": "user", "content": user}]})
}

/// `body` with further fields.
pub fn with(mut body: Json, fields: Json) -> Json {
    let Json::Object(fields) = fields else { panic!("not an object") };
    body.as_object_mut().unwrap().extend(fields);
    body
}

/// One token per byte, then the end.
pub fn ids(answer: &str) -> Vec<u32> {
    answer.bytes().map(u32::from).chain([END]).collect()
}

/// One token per letter of ASCII, whatever its case.
fn embedding_model(shape: EncoderShape) -> EmbeddingModel {
    let vocabulary: HashMap<String, u32> = (b' '..=b'~').map(|byte| (char::from(byte).into(), byte.into())).collect();
    let letters = json!({"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false});
    let json = json!({
        "version": "1.0", "added_tokens": [], "normalizer": {"type": "Lowercase"}, "pre_tokenizer": letters,
        "post_processor": null, "decoder": null, "truncation": null, "padding": null,
        "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "~"},
    });
    let tokenizer = EncoderTokenizer::from_json(json.to_string().as_bytes(), shape.vocab_size, shape.max_tokens);
    EmbeddingModel {
        name: "toy".into(),
        fingerprint: "fp_letters".into(),
        query_prefix: String::new(),
        tokenizer: tokenizer.unwrap(),
    }
}

/// Byte-level BPE with next to no merges: id = byte; then three control tokens.
fn toy_tokenizer() -> Tokenizer {
    let bytes = byte_characters();
    let mut tokens: Vec<String> = (0..=255_u8).map(|byte| bytes[&byte].to_string()).collect();
    let mut kinds = vec![TokenKind::Normal; 256];
    for control in ["<|im_start|>", "<|im_end|>", "<|endoftext|>"] {
        tokens.push(control.into());
        kinds.push(TokenKind::Control);
    }
    // A vocabulary must have a merge: two zero bytes.
    let zero = bytes[&0];
    tokens.push(format!("{zero}{zero}"));
    kinds.push(TokenKind::Normal);
    let vocabulary = GgufVocabulary {
        model: "gpt2".into(),
        pre: "gpt-2".into(),
        scores: vec![0.0; tokens.len()],
        tokens,
        kinds,
        merges: vec![format!("{zero} {zero}")],
        eos_id: Some(END),
        add_bos: Some(false),
        ..GgufVocabulary::default()
    };
    Tokenizer::from_source(&TokenizerSource::Gguf(Box::new(vocabulary))).unwrap()
}

/// GPT-2's printable stand-ins for bytes.
fn byte_characters() -> HashMap<u8, char> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let mut spare = 256_u32..;
    (0..=255_u8)
        .map(|byte| {
            let character =
                if printable(&byte) { char::from(byte) } else { char::from_u32(spare.next().unwrap()).unwrap() };
            (byte, character)
        })
        .collect()
}

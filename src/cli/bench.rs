//! `steppe bench`: load on any OpenAI-compatible server, and what its users would see.

use std::time::Duration;

use serde_json::json;

use crate::bench::{Client, ClientOptions, Prompts, Report, Stall, measure_stall, run, table};
use crate::lang::Lang;

/// Arguments of `steppe bench`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The server, with or without /v1
    #[arg(long, default_value = "http://127.0.0.1:8000")]
    url: String,
    /// Model named in the requests
    #[arg(long, default_value = "default")]
    model: String,
    /// Key or token for the Authorization header
    #[arg(long, env = "OPENAI_API_KEY", hide_env_values = true)]
    api_key: Option<String>,
    /// Requests in flight; several numbers are measured in turn, such as 1,4,16
    #[arg(long, value_delimiter = ',', default_value = "1")]
    clients: Vec<usize>,
    /// Requests in all [default: four for each client]
    #[arg(long)]
    requests: Option<usize>,
    /// Prompt length, chat template included
    #[arg(long, default_value_t = 128)]
    prompt_tokens: usize,
    /// Tokens that each request generates, no fewer and no more
    #[arg(long, default_value_t = 128)]
    output_tokens: usize,
    /// Length of a prefix that all prompts of a run share, on top of their own
    #[arg(long, default_value_t = 0)]
    shared_prefix_tokens: usize,
    /// Instead: how long running streams stand still while a prompt of so many tokens arrives
    #[arg(long, value_name = "TOKENS")]
    stall: Option<usize>,
    /// Sampling temperature
    #[arg(long, default_value_t = 0.0)]
    temperature: f32,
    /// Short requests before the clock starts
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Longest time for one request, seconds
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Seed of the prompts; two runs with one seed send the same prompts
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Process id of the server, to report its memory
    #[arg(long)]
    pid: Option<u32>,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Args {
    /// Measures and prints; fails if any request failed.
    #[expect(clippy::print_stdout, reason = "the output of the command")]
    pub fn run(self, lang: Lang) -> anyhow::Result<()> {
        anyhow::ensure!(
            !self.clients.is_empty() && !self.clients.contains(&0) && self.output_tokens > 0,
            lang.pick("--clients and --output-tokens must be at least 1", "--clients и --output-tokens не меньше 1")
        );
        let client = Client::new(ClientOptions {
            url: self.url.clone(),
            model: self.model.clone(),
            api_key: self.api_key.clone(),
            temperature: self.temperature,
            timeout: Duration::from_secs(self.timeout),
        });
        let mut prompts = Prompts::calibrate(&client, self.seed)?;
        for _ in 0..self.warmup {
            client.ask(&prompts.of_tokens(32), 8, &mut |_| ())?;
        }
        if let Some(long_prompt_tokens) = self.stall {
            return self.stall(&client, &mut prompts, long_prompt_tokens, lang);
        }
        let mut reports = Vec::new();
        for &clients in &self.clients {
            let requests = self.requests.unwrap_or(4 * clients);
            let batch = prompts.batch(requests, self.prompt_tokens, self.shared_prefix_tokens);
            let load = run(&client, clients, batch, self.output_tokens);
            let report = Report::new(&load, clients, self.output_tokens, self.pid);
            if self.json {
                println!("{}", serde_json::to_string(&report)?);
            }
            reports.push(report);
        }
        if !self.json {
            print!("{}", table(&reports, lang));
        }
        let failed: usize = reports.iter().map(|report| report.failed).sum();
        anyhow::ensure!(failed == 0, "{failed} {}", lang.pick("requests failed", "запросов завершились ошибкой"));
        Ok(())
    }

    #[expect(clippy::print_stdout, reason = "the output of the command")]
    fn stall(self, client: &Client, prompts: &mut Prompts, long: usize, lang: Lang) -> anyhow::Result<()> {
        for &streams in &self.clients {
            let stall = Stall {
                streams,
                prompt_tokens: self.prompt_tokens,
                output_tokens: self.output_tokens,
                long_prompt_tokens: long,
            };
            let report = measure_stall(client, prompts, stall)?;
            if self.json {
                println!("{}", json!({ "clients": streams, "stall": report }));
                continue;
            }
            let p50 = report.undisturbed_gaps_ms.map_or(0.0, |gaps| gaps.p50);
            match lang {
                Lang::En => println!(
                    "{streams} streams: worst gap {:.1} ms while a prompt of {} tokens arrived ({:.1} ms to its first \
                     token); {p50:.1} ms otherwise (p50)",
                    report.worst_gap_ms, report.long_prompt_tokens, report.long_prompt_ttft_ms
                ),
                Lang::Ru => println!(
                    "потоков {streams}: самая долгая пауза {:.1} мс, пока поступал промпт из {} токенов (его первый токен \
                     через {:.1} мс); в остальное время {p50:.1} мс (p50)",
                    report.worst_gap_ms, report.long_prompt_tokens, report.long_prompt_ttft_ms
                ),
            }
        }
        Ok(())
    }
}

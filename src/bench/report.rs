//! From the answers of a run to its figures, as a table for people and as JSON for programs.

use std::fmt::Write as _;

use serde::Serialize;

use super::load::Load;
use crate::lang::Lang;

/// Mean and percentiles; those between two ranks are interpolated.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Spread {
    pub mean: f64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
}

impl Spread {
    /// None of no values.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut ordered: Vec<f64> = values.collect();
        if ordered.is_empty() {
            return None;
        }
        ordered.sort_by(f64::total_cmp);
        let percentile = |percent: f64| {
            let rank = (ordered.len() - 1) as f64 * percent / 100.0;
            let low = rank as usize;
            let high = (low + 1).min(ordered.len() - 1);
            ordered[low] + (ordered[high] - ordered[low]) * rank.fract()
        };
        let mean = ordered.iter().sum::<f64>() / ordered.len() as f64;
        Some(Self { mean, p50: percentile(50.0), p95: percentile(95.0), p99: percentile(99.0) })
    }
}

/// The figures of one run. Times are milliseconds unless the name says seconds.
#[derive(Debug, Clone, Serialize)]
#[expect(missing_docs, reason = "the names say it; the module's head defines them")]
pub struct Report {
    pub clients: usize,
    pub requests: usize,
    pub failed: usize,
    /// Up to three different ones.
    pub errors: Vec<String>,
    pub wall_s: f64,
    pub prompt_tokens_mean: f64,
    pub cached_tokens_mean: f64,
    pub output_tokens_mean: f64,
    /// Requests that gave fewer tokens than asked for.
    pub short_outputs: usize,
    pub output_tok_s: f64,
    pub total_tok_s: f64,
    pub ttft_ms: Option<Spread>,
    pub itl_ms: Option<Spread>,
    pub request_s: Option<Spread>,
    pub decode_tok_s: Option<Spread>,
    pub prefill_tok_s: Option<Spread>,
    /// Resident memory of the server, now and at its highest, MiB.
    pub resident_mib: Option<[f64; 2]>,
}

impl Report {
    /// Sums a run up; `server` is the process id of a server on this machine.
    pub fn new(load: &Load, clients: usize, max_tokens: usize, server: Option<u32>) -> Self {
        let answers = &load.answers;
        let wall_s = load.wall.as_secs_f64();
        let sum = |of: fn(&super::Answer) -> usize| answers.iter().map(of).sum::<usize>() as f64;
        let (prompt, output) = (sum(|a| a.prompt_tokens), sum(|a| a.completion_tokens));
        let count = answers.len().max(1) as f64;
        let mut errors: Vec<String> = load.errors.iter().map(ToString::to_string).collect();
        errors.sort();
        errors.dedup();
        errors.truncate(3);
        Self {
            clients,
            requests: answers.len() + load.errors.len(),
            failed: load.errors.len(),
            errors,
            wall_s,
            prompt_tokens_mean: prompt / count,
            cached_tokens_mean: sum(|a| a.cached_tokens) / count,
            output_tokens_mean: output / count,
            short_outputs: answers.iter().filter(|a| a.completion_tokens < max_tokens).count(),
            output_tok_s: output / wall_s,
            total_tok_s: (prompt + output) / wall_s,
            ttft_ms: Spread::of(answers.iter().map(|a| a.ttft().as_secs_f64() * 1e3)),
            itl_ms: Spread::of(answers.iter().flat_map(super::Answer::gaps).map(|gap| gap.as_secs_f64() * 1e3)),
            request_s: Spread::of(answers.iter().map(|a| a.end.duration_since(a.start).as_secs_f64())),
            decode_tok_s: Spread::of(answers.iter().filter_map(super::Answer::decode_rate)),
            prefill_tok_s: Spread::of(answers.iter().filter_map(super::Answer::prefill_rate)),
            resident_mib: server.and_then(resident_mib),
        }
    }
}

/// `VmRSS` and `VmHWM` of a process, MiB; none where there is no /proc.
fn resident_mib(process: u32) -> Option<[f64; 2]> {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_whitespace().next()?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    };
    Some([field("VmRSS:")?, field("VmHWM:")?])
}

/// One line per run.
pub fn table(reports: &[Report], lang: Lang) -> String {
    let mut text = String::new();
    let head = lang.pick(
        [
            "clients",
            "requests",
            "output tok/s",
            "decode tok/s",
            "prefill tok/s",
            "TTFT ms p50/p95/p99",
            "ITL ms p50/p95/p99",
        ],
        [
            "клиенты",
            "запросы",
            "вывод ток/с",
            "один ток/с",
            "промпт ток/с",
            "TTFT мс p50/p95/p99",
            "ITL мс p50/p95/p99",
        ],
    );
    line(&mut text, &head.map(str::to_owned));
    for report in reports {
        let mean = |spread: Option<Spread>| spread.map_or_else(|| "-".into(), |s| format!("{:.1}", s.mean));
        let spread = |spread: Option<Spread>| {
            spread.map_or_else(|| "-".into(), |s| format!("{:.1} / {:.1} / {:.1}", s.p50, s.p95, s.p99))
        };
        line(
            &mut text,
            &[
                report.clients.to_string(),
                report.requests.to_string(),
                format!("{:.1}", report.output_tok_s),
                mean(report.decode_tok_s),
                mean(report.prefill_tok_s),
                spread(report.ttft_ms),
                spread(report.itl_ms),
            ],
        );
    }
    for report in reports {
        if report.failed > 0 {
            let what = lang.pick("clients: requests failed:", "клиентов: запросы с ошибкой:");
            let _ = writeln!(text, "{} {what} {} ({})", report.clients, report.failed, report.errors.join("; "));
        }
        if report.short_outputs > 0 {
            let what = lang.pick("clients: answers shorter than asked:", "клиентов: ответы короче заданного:");
            let _ = writeln!(text, "{} {what} {}", report.clients, report.short_outputs);
        }
    }
    text
}

fn line(text: &mut String, cells: &[String; 7]) {
    for (cell, width) in cells.iter().zip([7, 8, 12, 12, 13, 25, 22]) {
        let _ = write!(text, "{cell:>width$}  ");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
}

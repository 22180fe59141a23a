//! What the person who starts the server sees: what was found, what it costs, when it is ready and what to try.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use kernels::Compute;
use models::{ModelConfig, ModelFile};

use super::machine::Machine;
use super::sizes::Sizes;
use crate::generate::{Generator, ServedModel};

/// Tells the person at the terminal.
#[expect(clippy::print_stdout, reason = "the output of the command")]
pub fn say(text: &str) {
    println!("{text}");
}

/// Machine and model, before the weights are read.
pub fn found(
    machine: &Machine,
    compute: &Compute,
    file: &ModelFile,
    model: &ServedModel,
    config: &ModelConfig,
) -> String {
    let device = if compute.device().is_cpu() { "CPU" } else { "GPU" };
    format!(
        "Steppe {version}\n  device     {device}, {isa:?}, {threads} threads on {cores} cores\n  model      {id}: {path}\n             \
         {architecture:?}, {format}, {layers} layers, vocabulary {vocabulary}\n  context    {context} tokens (the model's own: {own})",
        version = env!("CARGO_PKG_VERSION"),
        isa = compute.isa(),
        threads = compute.threads(),
        cores = machine.cores,
        id = model.id,
        path = file.path().display(),
        architecture = config.architecture,
        format = file.format(),
        layers = config.num_layers,
        vocabulary = config.vocab_size,
        context = model.context,
        own = config.max_context,
    )
}

/// The memory plan.
pub fn plan(sizes: &Sizes) -> String {
    sizes.to_string()
}

/// Ready, and a line to try.
pub fn welcome(generator: &Generator, address: SocketAddr, after: Duration) -> String {
    let host = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    let url = format!("http://{}", SocketAddr::new(host, address.port()));
    let body = r#"{"messages": [{"role": "user", "content": "What is a steppe?"}], "stream": true}"#;
    format!(
        "Ready after {:.1} s: {} at {url} (documentation: {url}/docs). Try:\n\n  curl -N {url}/v1/chat/completions -H \
         'Content-Type: application/json' -d '{body}'\n",
        after.as_secs_f64(),
        generator.model().id,
    )
}

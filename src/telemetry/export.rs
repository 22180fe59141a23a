//! Sends spans to a collector by OTLP over HTTP, from a thread of its own with a bounded queue: whoever makes a span
//! never waits, and what the collector does not take is lost.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::propagation::Extractor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{Protocol, RetryPolicy, SpanExporter, WithExportConfig as _, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, Sampler, SdkTracerProvider};
use secrecy::ExposeSecret as _;

use super::collector::Collector;
use super::trace::{RequestTrace, Spans};
use crate::config::OtlpConfig;
use crate::resilience::Breaker;

/// Spans that wait for their export; further ones are lost.
const WAITING_SPANS: usize = 4096;
/// Spans are sent this often.
const PAUSE: Duration = Duration::from_secs(2);
/// The end of the program waits so long for the last ones.
const PATIENCE: Duration = Duration::from_secs(2);

/// Makes spans of requests, or none where no collector is configured. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Traces {
    spans: Spans,
    provider: Option<SdkTracerProvider>,
}

impl Traces {
    /// Sends to this collector, behind this breaker.
    ///
    /// # Errors
    /// When the endpoint is no URL, or nobody is trusted to have it.
    pub fn open(config: &OtlpConfig, environment: &str, breaker: Arc<Breaker>) -> anyhow::Result<Self> {
        let headers = config.headers.iter().map(|(name, value)| (name.clone(), value.expose_secret().to_owned()));
        let exporter = SpanExporter::builder()
            .with_http()
            .with_http_client(Collector::new(&config.endpoint, config.ca_file.as_deref(), breaker)?)
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(&config.endpoint)
            .with_timeout(PATIENCE)
            .with_headers(headers.collect())
            .with_retry_policy(RetryPolicy::default().with_max_retries(0))
            .build()?;
        let batches = BatchConfigBuilder::default().with_max_queue_size(WAITING_SPANS).with_scheduled_delay(PAUSE);
        let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches.build()).build();
        let resource = Resource::builder_empty().with_service_name("steppe").with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("deployment.environment.name", environment.to_owned()),
        ]);
        let sampler = Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(config.sample_ratio)));
        let provider = SdkTracerProvider::builder()
            .with_span_processor(processor)
            .with_sampler(sampler)
            .with_resource(resource.build())
            .build();
        let tracer = Some(provider.tracer("steppe"));
        Ok(Self { spans: Spans { tracer, capture_content: config.capture_content }, provider: Some(provider) })
    }

    /// A request has come, with these headers.
    pub fn request(&self, headers: &dyn Extractor, method: &str, route: &str, request_id: &str) -> RequestTrace {
        self.spans.request(headers, method, route, request_id)
    }

    /// Sends what waits, for a moment at most, and ends. Blocks.
    pub fn close(&self) {
        if let Some(provider) = &self.provider
            && let Err(error) = provider.shutdown_with_timeout(PATIENCE)
        {
            tracing::debug!("the last spans are lost: {error}");
        }
    }
}

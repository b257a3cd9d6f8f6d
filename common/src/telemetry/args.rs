//! The flags that all servers share.

use super::{DEFAULT_FILTER, Telemetry, TelemetryConfig, TelemetryError, init};

/// Where OpenTelemetry's own programs look for the endpoint.
const STANDARD_ENDPOINT: &str = "OTEL_EXPORTER_OTLP_ENDPOINT";

/// Logs and traces.
#[derive(Debug, Clone, clap::Args)]
pub struct TelemetryArgs {
    /// What to log, such as info or omma_shard=debug.
    #[arg(long, env = "OMMA_LOG", value_name = "FILTER", default_value = DEFAULT_FILTER)]
    pub log: String,
    /// Log JSON, one object a line.
    #[arg(long, env = "OMMA_LOG_JSON")]
    pub log_json: bool,
    /// Send traces to this OTLP/gRPC endpoint; OTEL_EXPORTER_OTLP_ENDPOINT if left out.
    #[arg(long, env = "OMMA_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Share of the requests that are traced, 0 to 1. A request that comes with a trace of its own is traced if its
    /// sender says so.
    #[arg(long, env = "OMMA_TRACE_SAMPLE", value_name = "SHARE", default_value_t = 0.1, value_parser = share)]
    pub trace_sample: f64,
}

fn share(text: &str) -> Result<f64, String> {
    let share: f64 = text.parse().map_err(|e| format!("{e}"))?;
    if (0.0..=1.0).contains(&share) { Ok(share) } else { Err("must be between 0 and 1".to_owned()) }
}

impl TelemetryArgs {
    /// Sets up telemetry as `service`. Needs a tokio runtime.
    pub fn init(&self, service: &'static str) -> Result<Telemetry, TelemetryError> {
        let standard = || std::env::var(STANDARD_ENDPOINT).ok();
        init(&TelemetryConfig {
            service,
            filter: self.log.clone(),
            json: self.log_json,
            otlp_endpoint: self.otlp_endpoint.clone().or_else(standard).filter(|endpoint| !endpoint.is_empty()),
            sample: self.trace_sample,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        telemetry: TelemetryArgs,
    }

    #[test]
    fn a_share_is_between_nothing_and_all() {
        let share =
            |text: &str| Cli::try_parse_from(["x", "--trace-sample", text]).map(|c| c.telemetry.trace_sample).ok();
        assert_eq!((share("0"), share("0.25"), share("1")), (Some(0.0), Some(0.25), Some(1.0)));
        assert_eq!((share("1.5"), share("NaN"), share("all")), (None, None, None));
    }
}

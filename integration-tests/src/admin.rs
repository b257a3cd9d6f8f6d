//! The admin port of a server: probes and metrics, over plain HTTP.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(5);

/// GET: status and body.
///
/// # Errors
/// If nobody answers in HTTP within seconds.
pub async fn get(address: &str, path: &str) -> Result<(u16, String)> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(PATIENCE, exchange).await.with_context(|| format!("{path} hung"))??;
    let (head, body) = answer.split_once("\r\n\r\n").context("not an answer in HTTP")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("no status in the answer")?;
    Ok((status, body.to_owned()))
}

/// One value of a metric.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Name, with `_bucket`, `_sum` or `_count` if it is part of a histogram.
    pub name: String,
    /// By name.
    pub labels: BTreeMap<String, String>,
    /// NaN is possible.
    pub value: f64,
}

/// All metrics of the server whose admin port is `address`.
///
/// # Errors
/// If it does not answer, or not in Prometheus's text format.
pub async fn metrics(address: &str) -> Result<Vec<Sample>> {
    let (status, body) = get(address, "/metrics").await?;
    if status != 200 {
        bail!("/metrics answered {status}: {body}");
    }
    body.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse).collect()
}

/// The sum of all samples of that name with those labels; `None` if there is none.
pub fn sum(samples: &[Sample], name: &str, labels: &[(&str, &str)]) -> Option<f64> {
    let matches = |s: &&Sample| labels.iter().all(|(name, value)| s.labels.get(*name).is_some_and(|v| v == value));
    samples.iter().filter(|s| s.name == name).filter(matches).map(|s| s.value).reduce(|a, b| a + b)
}

fn parse(line: &str) -> Result<Sample> {
    let (series, value) = line.rsplit_once(' ').with_context(|| format!("no value: {line}"))?;
    let value = value.parse().with_context(|| format!("no number: {line}"))?;
    let (name, labels) = match series.split_once('{') {
        None => (series, BTreeMap::new()),
        Some((name, rest)) => {
            let inside = rest.strip_suffix('}').with_context(|| format!("labels without end: {line}"))?;
            // No label value of ours holds a comma or a quote.
            let pair = |pair: &str| {
                let (name, value) = pair.split_once('=').with_context(|| format!("no label: {line}"))?;
                anyhow::Ok((name.to_owned(), value.trim_matches('"').to_owned()))
            };
            (name, inside.split(',').filter(|p| !p.is_empty()).map(pair).collect::<Result<_>>()?)
        }
    };
    Ok(Sample { name: name.to_owned(), labels, value })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_text_format() {
        let sample = parse("omma_rpc_requests_total{code=\"OK\",rpc=\"omma.v1.SearchService/Search\"} 7").unwrap();
        assert_eq!((sample.name.as_str(), sample.value), ("omma_rpc_requests_total", 7.0));
        assert_eq!(sample.labels["rpc"], "omma.v1.SearchService/Search");
        let samples = vec![sample, parse("omma_rpc_requests_total{code=\"UNAVAILABLE\",rpc=\"x\"} 2").unwrap()];
        assert_eq!(sum(&samples, "omma_rpc_requests_total", &[]), Some(9.0));
        assert_eq!(sum(&samples, "omma_rpc_requests_total", &[("code", "OK")]), Some(7.0));
        assert_eq!(sum(&samples, "omma_x", &[]), None);
        assert_eq!(parse("omma_up 1").unwrap().labels.len(), 0);
        assert!(parse("omma_up").is_err());
    }
}

//! What server processes take while a load runs: by their admin ports, or out of `/proc`.

use std::collections::BTreeMap;
use std::time::Duration;

use omma_common::metrics::taken;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::args::ServerArgs;
use crate::exit::CliError;

const PATIENCE: Duration = Duration::from_secs(5);
/// Longest answer of an admin port.
const MAX_ANSWER: u64 = 16 << 20;
const CPU: &str = "omma_process_cpu_seconds_total";
const MEMORY: &str = "omma_process_resident_memory_bytes";

/// The processes that are watched.
#[derive(Debug)]
pub(super) struct Servers {
    watched: Vec<Watched>,
    metrics: Vec<String>,
}

#[derive(Debug)]
enum Watched {
    /// host:port.
    Admin(String),
    Process(u32),
}

/// One look at all of them, in their order.
#[derive(Debug, Clone)]
pub(super) struct Look(Vec<Seen>);

#[derive(Debug, Clone, PartialEq)]
struct Seen {
    cpu_seconds: f64,
    resident_bytes: f64,
    metrics: BTreeMap<String, f64>,
}

/// What one process took between two looks.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Cost {
    pub(super) name: String,
    pub(super) cpu_seconds: f64,
    /// At the end.
    pub(super) resident_bytes: f64,
    /// By how much each metric grew.
    pub(super) metrics: BTreeMap<String, f64>,
}

impl Servers {
    pub(super) fn new(args: &ServerArgs) -> Result<Self, CliError> {
        let ports = args.admin.iter().map(|url| host_and_port(url).map(Watched::Admin));
        let processes = args.pid.iter().map(|pid| Ok(Watched::Process(*pid)));
        let watched = ports.chain(processes).collect::<Result<_, _>>().map_err(CliError::Usage)?;
        Ok(Self { watched, metrics: args.metric.clone() })
    }

    /// Asks all of them.
    pub(super) async fn look(&self) -> Result<Look, CliError> {
        let mut seen = Vec::new();
        for watched in &self.watched {
            let of = |why: String| CliError::Failed(format!("cannot watch {}: {why}", watched.name()));
            seen.push(self.see(watched).await.map_err(of)?);
        }
        Ok(Look(seen))
    }

    async fn see(&self, watched: &Watched) -> Result<Seen, String> {
        match watched {
            Watched::Process(pid) => {
                let taken = taken(*pid).map_err(|e| e.to_string())?;
                let (cpu_seconds, resident_bytes) = (taken.cpu_seconds, taken.resident_bytes);
                Ok(Seen { cpu_seconds, resident_bytes, metrics: BTreeMap::new() })
            }
            Watched::Admin(address) => {
                let asked = tokio::time::timeout(PATIENCE, metrics_of(address)).await;
                let text = asked.map_err(|_| format!("no answer within {PATIENCE:?}"))?.map_err(|e| e.to_string())?;
                let own = |name| sum(&text, name).ok_or_else(|| format!("its metrics have no {name}"));
                // One that counts events may not be there before the first.
                let metrics = self.metrics.iter().map(|name| (name.clone(), sum(&text, name).unwrap_or(0.0)));
                Ok(Seen { cpu_seconds: own(CPU)?, resident_bytes: own(MEMORY)?, metrics: metrics.collect() })
            }
        }
    }

    /// What they took between two looks.
    pub(super) fn costs(&self, before: &Look, after: &Look) -> Vec<Cost> {
        let looks = before.0.iter().zip(&after.0);
        let cost = |(watched, (before, after)): (&Watched, (&Seen, &Seen))| Cost {
            name: watched.name(),
            cpu_seconds: after.cpu_seconds - before.cpu_seconds,
            resident_bytes: after.resident_bytes,
            metrics: after.metrics.iter().map(|(name, n)| (name.clone(), n - before.metrics[name])).collect(),
        };
        self.watched.iter().zip(looks).map(cost).collect()
    }
}

impl Watched {
    fn name(&self) -> String {
        match self {
            Self::Admin(address) => address.clone(),
            Self::Process(pid) => format!("process {pid}"),
        }
    }
}

/// Of `http://HOST:PORT`, with or without a path.
fn host_and_port(url: &str) -> Result<String, String> {
    let rest = url.strip_prefix("http://").unwrap_or(url);
    let address = rest.split('/').next().unwrap_or_default();
    match address.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() && !address.contains("//") => {
            Ok(address.to_owned())
        }
        _ => Err(format!("{url:?} is no admin port: write http://HOST:PORT")),
    }
}

async fn metrics_of(address: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(format!("GET /metrics HTTP/1.0\r\nhost: {address}\r\n\r\n").as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let not_http = || std::io::Error::other("not an answer in HTTP");
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(not_http)?;
    match head.split(' ').nth(1) {
        Some("200") => Ok(body.to_owned()),
        Some(status) => Err(std::io::Error::other(format!("HTTP status {status}"))),
        None => Err(not_http()),
    }
}

/// All samples of a metric together; `None` if there is none.
fn sum(text: &str, name: &str) -> Option<f64> {
    let value = |line: &str| {
        let (series, value) = line.rsplit_once(' ')?;
        let same = series.split('{').next() == Some(name);
        value.parse::<f64>().ok().filter(|_| same)
    };
    text.lines().filter(|line| !line.starts_with('#')).filter_map(value).reduce(|a, b| a + b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_over_labels() {
        let text = "# HELP omma_x X.\nomma_x{a=\"1 2\"} 3\nomma_x{a=\"b\"} 4.5\nomma_x_count 9\nomma_y 1e3\n";
        assert_eq!((sum(text, "omma_x"), sum(text, "omma_y"), sum(text, "omma_z")), (Some(7.5), Some(1000.0), None));
    }

    #[test]
    fn admin_ports_are_urls_or_addresses() {
        for url in ["http://h:7710", "h:7710", "http://h:7710/metrics"] {
            assert_eq!(host_and_port(url).as_deref(), Ok("h:7710"), "{url}");
        }
        assert_eq!(host_and_port("http://[::1]:80").as_deref(), Ok("[::1]:80"));
        for bad in ["https://h:1", "h", "", "h:port", ":1"] {
            assert!(host_and_port(bad).unwrap_err().contains("http://HOST:PORT"), "{bad}");
        }
    }

    #[tokio::test]
    #[cfg(target_os = "linux")]
    async fn this_process_takes_something() {
        let servers = Servers::new(&ServerArgs { pid: vec![std::process::id()], ..ServerArgs::default() }).unwrap();
        let before = servers.look().await.unwrap();
        let until = std::time::Instant::now() + Duration::from_millis(60);
        while std::time::Instant::now() < until {}
        let costs = servers.costs(&before, &servers.look().await.unwrap());
        assert!(costs.len() == 1 && costs[0].cpu_seconds >= 0.03 && costs[0].resident_bytes > 1e5, "{costs:?}");
        let gone = Servers::new(&ServerArgs { pid: vec![u32::MAX], ..ServerArgs::default() }).unwrap();
        assert!(gone.look().await.unwrap_err().to_string().contains("cannot watch process"));
    }
}

//! HTTP of the admin port: GET only, few connections at once, none for long, one request each.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{Instant, MissedTickBehavior};

use super::Vitals;
use crate::metrics::{self, Scrape};

/// Connections at once.
const CONNECTIONS: usize = 16;
/// For the request's head to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(2);
/// For a whole connection.
const CONNECTION_PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes of a request.
const MAX_REQUEST_BYTES: usize = 8 << 10;
/// Wait after a connection could not be taken (out of file descriptors, say).
const AFTER_FAILURE: Duration = Duration::from_millis(100);

/// A connection.
struct Open {
    task: AbortHandle,
    /// Whether its request has arrived.
    asked: Arc<AtomicBool>,
}

/// Serves until it is dropped. Where all places are taken, the oldest connection that has asked for nothing yet gives way, or
/// else the oldest: whoever only holds connections must not keep probes from being answered.
pub(super) async fn serve(listener: TcpListener, vitals: Vec<Vitals>) {
    let (vitals, mut open) = (Arc::new(vitals), VecDeque::<Open>::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                open.retain(|connection| !connection.task.is_finished());
                if open.len() >= CONNECTIONS {
                    let silent = open.iter().position(|connection| !connection.asked.load(Ordering::Relaxed));
                    if let Some(oldest) = open.remove(silent.unwrap_or(0)) {
                        oldest.task.abort();
                    }
                }
                let (vitals, asked) = (vitals.clone(), Arc::new(AtomicBool::new(false)));
                let answered = answer(stream, vitals, asked.clone());
                let task = tokio::spawn(async move {
                    // A client that is too slow is cut off; it has nothing to lose.
                    let _ = tokio::time::timeout(CONNECTION_PATIENCE, answered).await;
                });
                open.push_back(Open { task: task.abort_handle(), asked });
            }
            Err(error) => {
                tracing::warn!(%error, "the admin port cannot take a connection");
                tokio::time::sleep(AFTER_FAILURE).await;
            }
        }
    }
}

async fn answer(stream: TcpStream, vitals: Arc<Vec<Vitals>>, asked: Arc<AtomicBool>) {
    let service = service_fn(move |request: Request<Incoming>| {
        asked.store(true, Ordering::Relaxed);
        let vitals = vitals.clone();
        async move { Ok::<_, Infallible>(respond(request.method(), request.uri().path(), &vitals).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE)
        .max_buf_size(MAX_REQUEST_BYTES)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    // An error is the client's: it went away, or did not speak HTTP.
    let _ = connection.await;
}

async fn respond(method: &Method, path: &str, vitals: &Arc<Vec<Vitals>>) -> Response<Full<Bytes>> {
    if method != Method::GET && method != Method::HEAD {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned());
    }
    match path {
        "/metrics" => {
            let vitals = vitals.clone();
            let rendered = tokio::task::spawn_blocking(move || {
                let mut scrape = Scrape::default();
                vitals.iter().for_each(|v| v.scrape(&mut scrape));
                build_info(&mut scrape);
                metrics::render(scrape)
            });
            match rendered.await {
                Ok(body) => with_type(StatusCode::OK, metrics::TEXT_FORMAT, body),
                Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
            }
        }
        "/startupz" => verdict(vitals.iter().find_map(Vitals::starting)),
        "/readyz" => verdict(vitals.iter().find_map(Vitals::unready)),
        "/livez" => verdict(None),
        "/buildz" => text(StatusCode::OK, format!("omma {}\n", env!("CARGO_PKG_VERSION"))),
        "/" => text(StatusCode::OK, "/metrics /startupz /livez /readyz /buildz\n".to_owned()),
        _ => text(StatusCode::NOT_FOUND, "not found\n".to_owned()),
    }
}

fn build_info(scrape: &mut Scrape) {
    let help = "1; the label says which version runs.";
    scrape.gauge("omma_build_info", help, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
}

/// 200, or 503 and the reason.
fn verdict(problem: Option<String>) -> Response<Full<Bytes>> {
    match problem {
        None => text(StatusCode::OK, "ok\n".to_owned()),
        Some(problem) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{problem}\n")),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    with_type(status, "text/plain; charset=utf-8", body)
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

crate::metrics! {
    EVENT_LOOP_DELAY: Histogram = Histogram::new(
        "omma_event_loop_delay_seconds",
        "How much later than asked for the event loop wakes a task.",
        SECONDS,
    );
}

/// Measures how late the event loop is, five times a second.
pub(super) async fn watch_event_loop() {
    const EVERY: Duration = Duration::from_millis(200);
    init();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let asked = ticks.tick().await;
        EVENT_LOOP_DELAY.took(Instant::now().saturating_duration_since(asked));
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::Admin;

    async fn get(admin: &Admin, request: &str) -> String {
        let mut stream = TcpStream::connect(admin.address()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn probes_and_metrics_are_served() {
        let vitals = Vitals::default();
        vitals.step("reading 3 of 5");
        let admin = Admin::serve("127.0.0.1:0", vec![vitals]).await.unwrap().unwrap();
        for (path, status, body) in [
            ("/livez", "200 OK", "ok"),
            ("/startupz", "503 Service Unavailable", "reading 3 of 5"),
            ("/readyz", "503 Service Unavailable", "reading 3 of 5"),
            ("/metrics", "200 OK", "omma_process_resident_memory_bytes"),
            ("/buildz", "200 OK", env!("CARGO_PKG_VERSION")),
            ("/x", "404 Not Found", "not found"),
        ] {
            let answer = get(&admin, &format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await;
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(body), "{path}: {answer}");
        }
        let answer = get(&admin, "POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }

    #[tokio::test]
    async fn a_request_that_is_too_large_is_cut_off() {
        let admin = Admin::serve("127.0.0.1:0", vec![]).await.unwrap().unwrap();
        let answer = get(&admin, &format!("GET /livez HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(20_000))).await;
        assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn connections_that_ask_for_nothing_do_not_keep_probes_out() {
        let admin = Admin::serve("127.0.0.1:0", vec![]).await.unwrap().unwrap();
        let mut silent = Vec::new();
        for _ in 0..10 * CONNECTIONS {
            silent.push(TcpStream::connect(admin.address()).await.unwrap());
        }
        let probe = get(&admin, "GET /livez HTTP/1.1\r\nhost: x\r\n\r\n");
        let answer = tokio::time::timeout(HEAD_PATIENCE / 2, probe).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    }

    #[tokio::test]
    async fn off_is_off() {
        assert!(Admin::serve("off", vec![]).await.unwrap().is_none());
        let error = Admin::serve("127.0.0.1:x", vec![]).await.unwrap_err();
        assert!(error.to_string().contains("--admin-listen"), "{error}");
    }
}

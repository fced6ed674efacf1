//! Shared parts of the benchmarks: a PostgreSQL server, and a load generator on one thread.

#![allow(dead_code, unreachable_pub, reason = "a library to the benchmarks, each of which uses its part")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A PostgreSQL server with fsync on. Dropping this value stops it.
pub struct Postgres {
    pub url: String,
    guard: Child,
}

impl Postgres {
    /// Starts it in a temporary directory.
    pub fn start() -> Self {
        let dir = std::env::temp_dir().join(format!("coulomb-bench-{}", std::process::id()));
        let mut guard = Command::new(env!("CARGO_BIN_EXE_coulomb"))
            .args(["postgres", "--temporary", "--data-dir"])
            .arg(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the coulomb binary runs");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("the guard reports");
        let report: serde_json::Value = serde_json::from_str(&line).expect("the guard reports JSON");
        Self { url: report["url"].as_str().expect("a URL").to_owned(), guard }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.guard.stdin.take());
        let _ = self.guard.wait();
    }
}

/// The result of a run of requests.
#[derive(Default)]
pub struct Load {
    /// Number of answers 2xx.
    pub good: usize,
    pub bad: usize,
    /// From the first request to the last answer.
    pub elapsed: Duration,
    /// Latencies, sorted.
    pub latencies: Vec<Duration>,
}

impl Load {
    /// Good answers per second.
    pub fn rate(&self) -> f64 {
        self.good as f64 / self.elapsed.as_secs_f64()
    }

    /// Adds a later run.
    pub fn add(&mut self, other: Self) {
        self.good += other.good;
        self.bad += other.bad;
        self.elapsed += other.elapsed;
        self.latencies.extend(other.latencies);
        self.latencies.sort_unstable();
    }

    /// The latency in milliseconds that this share of the requests did not exceed.
    pub fn quantile_ms(&self, share: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * share) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(0.0, |latency| latency.as_secs_f64() * 1000.0)
    }
}

/// Sends `requests` (whole HTTP/1.1 messages) over `connections` kept-alive connections. With `rate` (per
/// second), each request goes out at its planned time, and its latency counts from that time (open loop).
/// Without `rate`, the next request goes out when an answer arrives (closed loop).
pub async fn load(address: &str, requests: &[Vec<u8>], connections: usize, rate: Option<f64>) -> Load {
    let next = AtomicUsize::new(0);
    let started = Instant::now();
    let workers = (0..connections).map(|_| worker(address, requests, &next, started, rate));
    let parts = futures_util::future::join_all(workers).await;
    let elapsed = started.elapsed();
    let mut all = Load { good: 0, bad: 0, elapsed, latencies: Vec::with_capacity(requests.len()) };
    for (good, bad, latencies) in parts {
        all.good += good;
        all.bad += bad;
        all.latencies.extend(latencies);
    }
    all.latencies.sort_unstable();
    all
}

async fn worker(
    address: &str,
    requests: &[Vec<u8>],
    next: &AtomicUsize,
    started: Instant,
    rate: Option<f64>,
) -> (usize, usize, Vec<Duration>) {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.set_nodelay(true).expect("TCP");
    let (mut good, mut bad, mut latencies) = (0, 0, Vec::new());
    let mut buffer = vec![0; 64 << 10];
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        let Some(request) = requests.get(n) else { return (good, bad, latencies) };
        let due = rate.map_or_else(Instant::now, |rate| started + Duration::from_secs_f64(n as f64 / rate));
        if rate.is_some() {
            tokio::time::sleep_until(due.into()).await;
        }
        stream.write_all(request).await.expect("sends");
        if answered(&mut stream, &mut buffer).await {
            good += 1
        } else {
            bad += 1
        }
        latencies.push(due.elapsed());
    }
}

/// Reads one answer that has a Content-Length; returns whether it is 2xx.
async fn answered(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> bool {
    let mut filled = 0;
    loop {
        if filled == buffer.len() {
            buffer.resize(filled * 2, 0);
        }
        let n = stream.read(&mut buffer[filled..]).await.expect("reads");
        assert!(n > 0, "the server closed the connection");
        filled += n;
        if let Some(end) = end_of_answer(&buffer[..filled])
            && filled >= end
        {
            return buffer[9] == b'2';
        }
    }
}

fn end_of_answer(text: &[u8]) -> Option<usize> {
    let head = text.windows(4).position(|part| part == b"\r\n\r\n")? + 4;
    let lower = text[..head].to_ascii_lowercase();
    let at = lower.windows(16).position(|part| part == b"content-length: ")? + 16;
    let length: usize =
        lower[at..].iter().take_while(|b| b.is_ascii_digit()).fold(0, |n, b| n * 10 + usize::from(b - b'0'));
    Some(head + length)
}

//! A server that receives messages.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Received {
    /// Names in lower case.
    pub headers: BTreeMap<String, String>,
    pub body: String,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("JSON")
    }

    /// Its number at the endpoint.
    pub fn sequence(&self) -> i64 {
        self.header("coulomb-sequence").parse().expect("a number")
    }

    pub fn kind(&self) -> String {
        self.json()["type"].as_str().expect("a type").to_owned()
    }
}

/// What the receiver answers.
#[derive(Clone, Debug)]
pub struct Reply {
    pub status: u16,
    /// Further header lines, each with its end of line.
    pub headers: String,
    pub body: String,
    /// How long the answer takes.
    pub after: Duration,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: String::new(), body: String::new(), after: Duration::ZERO }
    }
}

type Answers = Box<dyn FnMut(&Received) -> Reply + Send>;

/// A server on loopback that keeps what it gets.
pub struct Receiver {
    pub url: String,
    received: Arc<Mutex<Vec<Received>>>,
    answers: Arc<Mutex<Answers>>,
    /// Requests that have no answer yet, now and at most.
    open: Arc<(AtomicUsize, AtomicUsize)>,
}

impl Receiver {
    /// A server that answers 200 at once.
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("an address"));
        let answers: Answers = Box::new(|_| Reply::status(200));
        let receiver = Self {
            url,
            received: Arc::default(),
            answers: Arc::new(Mutex::new(answers)),
            open: Arc::default(),
        };
        let (received, answers) = (Arc::clone(&receiver.received), Arc::clone(&receiver.answers));
        let open = Arc::clone(&receiver.open);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (received, answers) = (Arc::clone(&received), Arc::clone(&answers));
                let open = Arc::clone(&open);
                std::thread::spawn(move || serve(stream, &received, &answers, &open));
            }
        });
        receiver
    }

    /// Answers so from now on.
    pub fn answers(&self, answers: impl FnMut(&Received) -> Reply + Send + 'static) {
        *self.answers.lock().expect("no panic") = Box::new(answers);
    }

    /// Answers with this status from now on.
    pub fn answers_with(&self, status: u16) {
        self.answers(move |_| Reply::status(status));
    }

    pub fn received(&self) -> Vec<Received> {
        self.received.lock().expect("no panic").clone()
    }

    pub fn count(&self) -> usize {
        self.received.lock().expect("no panic").len()
    }

    /// The most requests that were open at once.
    pub fn most_open(&self) -> usize {
        self.open.1.load(Ordering::SeqCst)
    }

    /// Waits until so many messages have come, and returns all.
    pub async fn gets(&self, count: usize) -> Vec<Received> {
        let started = Instant::now();
        while self.count() < count {
            let late = started.elapsed() > Duration::from_secs(120);
            assert!(!late, "{} of {count} messages came in two minutes", self.count());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.received()
    }

    /// A body that makes an endpoint of this server.
    pub fn endpoint(&self) -> Value {
        json!({ "url": self.url })
    }
}

fn serve(
    stream: TcpStream,
    received: &Mutex<Vec<Received>>,
    answers: &Mutex<Answers>,
    open: &(AtomicUsize, AtomicUsize),
) {
    let mut writer = stream.try_clone().expect("a second handle");
    let mut reader = BufReader::new(stream);
    while let Some(one) = read(&mut reader) {
        let now_open = open.0.fetch_add(1, Ordering::SeqCst) + 1;
        open.1.fetch_max(now_open, Ordering::SeqCst);
        received.lock().expect("no panic").push(one.clone());
        let reply = (answers.lock().expect("no panic"))(&one);
        std::thread::sleep(reply.after);
        open.0.fetch_sub(1, Ordering::SeqCst);
        let (status, headers, body) = (reply.status, reply.headers, reply.body);
        let length = body.len();
        let answer = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\n{headers}\r\n{body}");
        if writer.write_all(answer.as_bytes()).is_err() {
            return;
        }
    }
}

fn read(reader: &mut BufReader<TcpStream>) -> Option<Received> {
    let mut headers = BTreeMap::new();
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
    loop {
        line.clear();
        reader.read_line(&mut line).ok().filter(|length| *length > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Received { headers, body: String::from_utf8(body).expect("text") })
}

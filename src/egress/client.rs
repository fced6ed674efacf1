//! An HTTP client for requests to others' servers. It bounds the time, and what it reads of an answer.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::RETRY_AFTER;
use hyper::{HeaderMap, Method, Request};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use super::connector::{Connector, InsideAddress, Resolve};
use super::{SystemResolver, TargetRules};

/// Idle connections that are kept to one server, and how long.
const IDLE_CONNECTIONS: usize = 32;
const IDLE_TIME: Duration = Duration::from_secs(20);
/// Header of an answer at most, in bytes.
const HEADER_LIMIT: usize = 64 * 1024;
/// How much of an answer's body is read at most, and how much of it is kept, in bytes.
const BODY_LIMIT: usize = 64 * 1024;
const EXCERPT_LIMIT: usize = 1024;

/// What [`Client::new`] needs.
pub struct ClientOptions {
    /// Where it may send to.
    pub rules: TargetRules,
    /// How long a request may take: resolve, connect, send, and read the answer.
    pub timeout: Duration,
}

/// Sends requests to the outside. Cloning shares the connections.
#[derive(Clone)]
pub struct Client {
    http: HyperClient<Connector, Full<Bytes>>,
    timeout: Duration,
}

/// What the other side answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// `Retry-After`, as it was sent.
    pub retry_after: Option<String>,
    /// The beginning of the body, at most 1 KiB.
    pub excerpt: String,
}

/// A request of any method.
#[derive(Clone, Debug)]
pub struct Outgoing<'a> {
    pub method: Method,
    pub url: String,
    pub headers: &'a [(&'static str, String)],
    pub body: Bytes,
    /// Longest body of the answer, in bytes.
    pub answer_limit: usize,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct WholeReply {
    /// HTTP status.
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// Why there is no answer: one sentence without a full stop.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SendError {
    /// The host may not be reached. The text names its address, which is for operators alone.
    #[error("{0}")]
    NotAllowed(String),
    /// Any other reason.
    #[error("{0}")]
    Failed(String),
}

impl SendError {
    /// For those who may not learn addresses of the inside.
    #[must_use]
    pub fn for_tenants(&self) -> String {
        match self {
            Self::NotAllowed(_) => "the host is not allowed".to_owned(),
            Self::Failed(why) => why.clone(),
        }
    }

    fn of(error: &(dyn StdError + 'static)) -> Self {
        let mut cause = Some(error);
        while let Some(error) = cause {
            let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
            if inner.is_some_and(|inner| inner.is::<InsideAddress>()) {
                return Self::NotAllowed(causes(error));
            }
            cause = error.source();
        }
        Self::Failed(causes(error))
    }
}

impl Client {
    /// A client that asks the machine's resolver.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        Self::with_resolver(options, Arc::new(SystemResolver))
    }

    /// A client that asks another resolver for addresses. They are checked like all others.
    #[must_use]
    pub fn with_resolver(options: ClientOptions, resolver: Arc<dyn Resolve>) -> Self {
        let http = HyperClient::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .http1_max_buf_size(HEADER_LIMIT)
            .build(Connector::new(options.rules, resolver));
        Self { http, timeout: options.timeout }
    }

    /// Sends one `POST` of JSON. A redirect is an answer like any other.
    ///
    /// # Errors
    /// [`SendError`] when no answer came in time, or the target may not be reached.
    pub async fn post(
        &self,
        url: &str,
        headers: &[(&'static str, String)],
        body: Bytes,
    ) -> Result<Reply, SendError> {
        let headers: Vec<(&'static str, String)> =
            [("content-type", "application/json".to_owned())].into_iter().chain(headers.to_vec()).collect();
        let request = request(Method::POST, url, &headers, body)?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| SendError::of(&error))?;
            let status = answer.status().as_u16();
            let retry_after = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = retry_after.map(|text| text.chars().take(64).collect());
            Ok(Reply { status, retry_after, excerpt: excerpt(answer.into_body()).await })
        };
        self.within_time(exchange).await
    }

    /// Sends a request and reads the whole answer. A redirect is an answer like any other.
    ///
    /// # Errors
    /// [`SendError`] when no whole answer came in time, it is too long, or the target may not be reached.
    pub async fn exchange(&self, outgoing: Outgoing<'_>) -> Result<WholeReply, SendError> {
        let limit = outgoing.answer_limit;
        let request = request(outgoing.method, &outgoing.url, outgoing.headers, outgoing.body)?;
        let exchange = async {
            let answer = self.http.request(request).await.map_err(|error| SendError::of(&error))?;
            let (parts, body) = answer.into_parts();
            let body = Limited::new(body, limit).collect().await;
            let body = body.map_err(|error| SendError::of(&*error))?.to_bytes();
            Ok(WholeReply { status: parts.status.as_u16(), headers: parts.headers, body })
        };
        self.within_time(exchange).await
    }

    async fn within_time<T>(
        &self,
        exchange: impl Future<Output = Result<T, SendError>>,
    ) -> Result<T, SendError> {
        let late = || SendError::Failed(format!("no whole answer within {} s", self.timeout.as_secs()));
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_| late())?
    }
}

fn request(
    method: Method,
    url: &str,
    headers: &[(&'static str, String)],
    body: Bytes,
) -> Result<Request<Full<Bytes>>, SendError> {
    let url = super::parse(url).map_err(|rule| SendError::Failed(format!("the URL {rule}")))?;
    let mut request = Request::builder()
        .method(method)
        .uri(url.as_str())
        .header("user-agent", concat!("Coulomb/", env!("CARGO_PKG_VERSION")));
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    request.body(Full::new(body)).map_err(|error| SendError::Failed(error.to_string()))
}

/// The beginning of a body as text. The connection is used again only if the body is short and ends.
async fn excerpt(mut body: Incoming) -> String {
    let (mut kept, mut read) = (Vec::new(), 0);
    while read < BODY_LIMIT
        && let Some(Ok(frame)) = body.frame().await
    {
        let Ok(data) = frame.into_data() else { continue };
        read += data.len();
        kept.extend(data.iter().take(EXCERPT_LIMIT - kept.len()));
    }
    let text = String::from_utf8_lossy(&kept);
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// The innermost causes say most: `connection refused`, `invalid peer certificate`.
fn causes(error: &dyn StdError) -> String {
    let (mut texts, mut cause) = (Vec::new(), Some(error));
    while let Some(error) = cause {
        let text = error.to_string();
        if texts.last().is_none_or(|last: &String| !last.contains(&text)) {
            texts.push(text);
        }
        cause = error.source();
    }
    let text = if texts.len() > 1 { texts[1..].join(": ") } else { texts.concat() };
    text.chars().take(300).collect()
}

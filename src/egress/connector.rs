//! Opens connections: resolves, checks, and connects to what was checked.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tower_service::Service;

use super::TargetRules;

type Resolving<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Finds the addresses of a name.
pub trait Resolve: Send + Sync + 'static {
    /// All addresses of `host`.
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a>;
}

/// The resolver of the machine.
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, host: &'a str) -> Resolving<'a> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((host, 0)).await?.map(|address| address.ip()).collect())
        })
    }
}

/// A host that may not be reached.
#[derive(Debug, thiserror::Error)]
#[error("{host} is {address}, an address of the inside")]
pub(super) struct InsideAddress {
    host: String,
    address: IpAddr,
}

/// Opens connections for the HTTP client. Cloning shares everything.
#[derive(Clone)]
pub(super) struct Connector {
    rules: Arc<TargetRules>,
    resolver: Arc<dyn Resolve>,
    tls: Arc<OnceLock<Result<TlsConnector, String>>>,
}

impl Connector {
    pub(super) fn new(rules: TargetRules, resolver: Arc<dyn Resolve>) -> Self {
        Self { rules: Arc::new(rules), resolver, tls: Arc::default() }
    }

    async fn open(self, uri: Uri) -> io::Result<TokioIo<Stream>> {
        let refused = |why: String| io::Error::new(io::ErrorKind::PermissionDenied, why);
        let is_tls = uri.scheme_str() == Some("https");
        if !is_tls && !self.rules.allow_http {
            return Err(refused("http is not allowed".to_owned()));
        }
        let host = uri.host().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let addresses = match bare.parse::<IpAddr>() {
            Ok(address) => vec![address],
            Err(_) => self.resolver.resolve(bare).await?,
        };
        // One address of the inside refuses the name: nobody has such a mixture by accident.
        if let Some(inside) = addresses.iter().find(|address| !self.rules.allowed.may_reach(bare, **address))
        {
            let why = InsideAddress { host: bare.to_owned(), address: *inside };
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
        }
        let stream = connect(&addresses, port).await?;
        stream.set_nodelay(true)?;
        if !is_tls {
            return Ok(TokioIo::new(Stream::new(Kind::Plain(stream))));
        }
        let tls =
            self.tls.get_or_init(tls_connector).as_ref().map_err(|why| io::Error::other(why.clone()))?;
        let name = ServerName::try_from(bare.to_owned()).map_err(io::Error::other)?;
        let stream = tls.connect(name, stream).await?;
        Ok(TokioIo::new(Stream::new(Kind::Tls(Box::new(stream)))))
    }
}

/// Connects to the first of the addresses that answers.
async fn connect(addresses: &[IpAddr], port: u16) -> io::Result<TcpStream> {
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in addresses {
        match TcpStream::connect(SocketAddr::new(*address, port)).await {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// TLS with the root certificates of this machine; `SSL_CERT_FILE` names others.
fn tls_connector() -> Result<TlsConnector, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = rustls::RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(found.certs);
    if usable == 0 {
        return Err("this machine has no root certificates: install the package ca-certificates".to_owned());
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().open(uri))
    }
}

/// A connection, with or without TLS. While an answer is missing, its end is an abort: the kernel sends no
/// more of the request. With an orderly end it would go on sending for minutes, also for a process that was
/// killed, and the receiver would get the request after its repetition (socket(7): `SO_LINGER`).
pub(super) struct Stream {
    kind: Kind,
    awaits_answer: bool,
}

enum Kind {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Stream {
    fn new(kind: Kind) -> Self {
        Self { kind, awaits_answer: false }
    }

    fn set_awaits_answer(&mut self, awaits: bool) -> io::Result<()> {
        if self.awaits_answer == awaits {
            return Ok(());
        }
        let socket = match &self.kind {
            Kind::Plain(stream) => stream,
            Kind::Tls(stream) => stream.get_ref().0,
        };
        SockRef::from(socket).set_linger(awaits.then_some(Duration::ZERO))?;
        self.awaits_answer = awaits;
        Ok(())
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        let before = buffer.filled().len();
        let read = match &mut stream.kind {
            Kind::Plain(plain) => Pin::new(plain).poll_read(cx, buffer),
            Kind::Tls(tls) => Pin::new(tls).poll_read(cx, buffer),
        };
        if buffer.filled().len() > before {
            stream.set_awaits_answer(false)?;
        }
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let stream = self.get_mut();
        stream.set_awaits_answer(true)?;
        match &mut stream.kind {
            Kind::Plain(plain) => Pin::new(plain).poll_write(cx, bytes),
            Kind::Tls(tls) => Pin::new(tls).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().kind {
            Kind::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Kind::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let stream = self.get_mut();
        if stream.awaits_answer {
            return Poll::Ready(Ok(()));
        }
        match &mut stream.kind {
            Kind::Plain(plain) => Pin::new(plain).poll_shutdown(cx),
            Kind::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}

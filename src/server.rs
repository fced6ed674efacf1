//! The HTTP server: connections, limits, timeouts, TLS and draining around the routes.

mod answer;
mod wire;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix_http::error::DispatchError;
use actix_http::{HttpService, KeepAlive, Protocol, Request};
use actix_service::{
    IntoServiceFactory, Service, ServiceFactory, ServiceFactoryExt, fn_factory, fn_service, map_config,
};
use actix_web::dev::{AppConfig, Server};
use actix_web::middleware::{Compress, from_fn};
use actix_web::web;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use socket2::{Domain, Socket, Type};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use self::wire::{Watched, Wire};
use crate::api::{http, serve};
use crate::app::App;
use crate::config::{Config, ConfigError};
use crate::connections::{Connections, Patience, SPARE};
use crate::error::Error;
use crate::json;

/// Connections that the system may hold for us before we take them.
const BACKLOG: i32 = 1024;
/// Bytes of an answer that the system holds for a client, about. More would wait unseen: who takes less than
/// a third of it within the bound of an answer counts as taking nothing.
const SEND_BUFFER: usize = 192 << 10;
/// Files that are open beside connections of clients: the database's, exports, logs.
const OTHER_FILES: u64 = 256;
/// With fewer connections the daemon serves nobody well.
const LEAST_CONNECTIONS: u64 = 32;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("COULOMB_LISTEN is {address}, where nothing can listen: {error}")]
    Bind {
        /// The address asked for.
        address: std::net::SocketAddr,
        /// What the system says.
        error: std::io::Error,
    },
    /// The process may open too few files.
    #[error(
        "the limit of open files is {limit}, and Coulomb needs {needed}: raise it (ulimit -n, LimitNOFILE), \
         or set COULOMB_POOL_SIZE lower"
    )]
    Files {
        /// The highest that this process may set.
        limit: u64,
        /// What the daemon opens itself, and for a few connections.
        needed: u64,
    },
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// Whether [`bind`] can succeed: the address is free, certificate and key can be used. The daemon asks before
/// it makes anything.
///
/// # Errors
/// See [`ServeError`].
pub fn check(config: &Config) -> Result<(), ServeError> {
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        tls(cert, key)?;
    }
    files(config)?;
    let address = config.listen;
    listen(address).map(drop).map_err(|error| ServeError::Bind { address, error })
}

/// A bound server, not yet running, and the address that it got.
///
/// # Errors
/// See [`ServeError`].
pub fn bind(app: &Arc<App>) -> Result<(Server, std::net::SocketAddr), ServeError> {
    bind_with(app, |_| {})
}

/// As [`bind`], with further routes, which are tried before ours: a benchmark compares ours with one that
/// does less.
///
/// # Errors
/// See [`ServeError`].
pub fn bind_with(
    app: &Arc<App>,
    further: fn(&mut web::ServiceConfig),
) -> Result<(Server, std::net::SocketAddr), ServeError> {
    let config = &app.config;
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(TlsAcceptor::from(Arc::new(tls(cert, key)?))),
        _ => None,
    };
    let (listener, address) =
        listen(config.listen).map_err(|error| ServeError::Bind { address: config.listen, error })?;
    let connections = connections(config)?;
    let (data, at_most) = (web::Data::from(Arc::clone(app)), connections.at_most() + SPARE);
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let (request_timeout, keep_alive) = (seconds(config.request_timeout_s), seconds(config.keep_alive_s));

    let server = Server::build().backlog(BACKLOG.unsigned_abs()).disable_signals();
    let server = server.shutdown_timeout(u64::from(config.drain_s)).max_concurrent_connections(at_most);
    let server =
        if config.http_workers == 0 { server } else { server.workers(usize::from(config.http_workers)) };
    let stopping = server.graceful_shutdown_signal();
    let make = move || {
        let data = data.clone();
        let routes = actix_web::App::new()
            .app_data(data)
            .app_data(
                web::PathConfig::default()
                    // Ids in paths are texts, or numbers of 64 bits
                    .error_handler(|_, _| Error::invalid("path", json::wanted("i64")).into()),
            )
            .wrap(from_fn(http::refuse_when_clock_jumped))
            .wrap(from_fn(answer::watch))
            .wrap(Compress::default())
            .wrap(from_fn(http::refuse_nul))
            .wrap(from_fn(http::observe))
            .configure(further)
            .configure(serve::configure);
        let routes = IntoServiceFactory::<_, Request>::into_factory(routes);
        let routes = routes.map_err(|error: actix_web::Error| error.error_response());
        let stopping = stopping.clone();
        let http = HttpService::build()
            .graceful_shutdown_signal(move || {
                let stopping = stopping.clone();
                async move { stopping.notified().await }
            })
            .keep_alive(if keep_alive.is_zero() { KeepAlive::Disabled } else { keep_alive.into() })
            .client_request_timeout(request_timeout)
            .client_disconnect_timeout(Duration::from_secs(5))
            .local_addr(address)
            .on_connect_ext(|watched: &Watched, data| {
                data.insert(Rc::clone(&watched.connection));
            })
            .finish(map_config(routes, |()| AppConfig::default()));
        each_connection(http, connections.clone(), tls.clone(), request_timeout)
    };
    let server =
        server.listen("coulomb", listener, make).map_err(|error| ServeError::Bind { address, error })?;
    Ok((server.run(), address))
}

/// Serves each connection that comes until it ends, or waits for too long, or others need its place.
fn each_connection<H>(
    http: H,
    connections: Arc<Connections>,
    tls: Option<TlsAcceptor>,
    handshake: Duration,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    H: ServiceFactory<
            (Watched, Protocol, Option<SocketAddr>),
            Config = (),
            Response = (),
            Error = DispatchError,
            InitError = (),
        > + 'static,
    H::Service: 'static,
{
    fn_factory(move || {
        let (http, connections, tls) = (http.new_service(()), Arc::clone(&connections), tls.clone());
        async move {
            let http = Rc::new(http.await?);
            Ok(fn_service(move |stream: TcpStream| {
                let (http, tls) = (Rc::clone(&http), tls.clone());
                let entered = connections.enter();
                async move {
                    let Some(connection) = entered else { return Ok(()) };
                    let served = async {
                        let address = stream.peer_addr().ok();
                        let wire = match tls {
                            None => Wire::Plain(stream),
                            Some(tls) => match tokio::time::timeout(handshake, tls.accept(stream)).await {
                                Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                                Ok(Err(_)) | Err(_) => return Ok(()),
                            },
                        };
                        let watched = Watched { wire, connection: Rc::clone(&connection) };
                        http.call((watched, Protocol::Http1, address)).await
                    };
                    tokio::select! {
                        biased;
                        () = connection.over() => Ok(()),
                        result = served => result,
                    }
                }
            }))
        }
    })
}

/// A socket that listens, and its address.
fn listen(address: SocketAddr) -> std::io::Result<(TcpListener, SocketAddr)> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    // Connections have it from their listener.
    socket.set_send_buffer_size(SEND_BUFFER)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from(socket);
    let bound = listener.local_addr()?;
    Ok((listener, bound))
}

/// The place for connections: as many as set, if the system lets us have as many open files.
///
/// # Errors
/// [`ServeError::Files`] when it lets us have too few.
fn connections(config: &Config) -> Result<Arc<Connections>, ServeError> {
    let wanted = u64::from(config.max_connections);
    let possible = files(config)?;
    if possible < wanted {
        tracing::warn!(
            wanted,
            possible,
            "COULOMB_MAX_CONNECTIONS is more than the limit of open files leaves: raise it (ulimit -n, \
                LimitNOFILE)"
        );
    }
    let seconds = |seconds: u32| Duration::from_secs(u64::from(seconds));
    let patience = Patience {
        head: seconds(config.request_timeout_s),
        idle: seconds(config.keep_alive_s),
        answer: seconds(config.answer_timeout_s),
    };
    let held = config.answer_memory_mib as usize * 1024 * 1024;
    let at_most = usize::try_from(possible.min(wanted)).unwrap_or(usize::MAX);
    Ok(Arc::new(Connections::new(at_most, held, patience)))
}

/// For how many connections the limit of open files has room, once it is raised as far as may be.
fn files(config: &Config) -> Result<u64, ServeError> {
    let wanted = u64::from(config.max_connections);
    let others = OTHER_FILES + SPARE as u64;
    let mut files = getrlimit(Resource::Nofile);
    if files.current.is_some_and(|current| current < wanted + others) {
        let more = files.maximum.map_or(wanted + others, |maximum| maximum.min(wanted + others));
        // If not, it stays as it is.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(more), maximum: files.maximum });
        files = getrlimit(Resource::Nofile);
    }
    let Some(limit) = files.current else { return Ok(wanted) };
    let needed = others + LEAST_CONNECTIONS.min(wanted);
    if limit < needed {
        return Err(ServeError::Files { limit, needed });
    }
    Ok(limit - others)
}

fn tls(cert: &Path, key: &Path) -> Result<ServerConfig, ConfigError> {
    let wrong = |name: &str, path: &Path, error: String| ConfigError {
        name: name.to_owned(),
        problem: format!("names {}, which cannot be used: {error}", path.display()),
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| wrong("COULOMB_TLS_CERT", cert, error.to_string()))?;
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| wrong("COULOMB_TLS_KEY", key, error.to_string()))?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(chain, key_der).map_err(|error| error.to_string())
        })
        .map_err(|error| wrong("COULOMB_TLS_CERT", cert, error))
}

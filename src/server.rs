//! The HTTP server around the routes: connections, limits, timeouts, TLS, and draining at the end.

mod answer;
mod sockets;
mod tls;
mod wire;

use std::net::SocketAddr;
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
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use self::sockets::BACKLOG;
use self::wire::{WatchedStream, Wire};
use crate::api::{http, serve};
use crate::app::App;
use crate::config::{Config, ConfigError};
use crate::connections::{Connections, SPARE};
use crate::documents::html::Template;
use crate::error::Error;
use crate::json;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Another program listens there, or the address is not one of this machine.
    #[error("COULOMB_LISTEN is {address}, where nothing can listen: {error}")]
    Bind { address: SocketAddr, error: std::io::Error },
    /// The limit of open files is too low.
    #[error(
        "the limit of open files is {limit}, and Coulomb needs {needed}: raise it (ulimit -n, LimitNOFILE), \
         or set COULOMB_POOL_SIZE lower"
    )]
    Files {
        /// The highest limit that this process can set.
        limit: u64,
        /// Files that the daemon needs for itself and for a few connections.
        needed: u64,
    },
    /// The certificate or the key cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// The look of documents that the settings name; `None`: the built-in one.
///
/// # Errors
/// Names the setting whose file cannot be used, and why.
pub fn template(config: &Config) -> Result<Option<Template>, ConfigError> {
    let Some(path) = &config.invoice_template else { return Ok(None) };
    let unusable = |why: String| ConfigError {
        name: "COULOMB_INVOICE_TEMPLATE".to_owned(),
        problem: format!("names {}, which cannot be used: {why}", path.display()),
    };
    let text = std::fs::read_to_string(path).map_err(|error| unusable(error.to_string()))?;
    let template = Template::parse(&text).map_err(|error| unusable(error.to_string()))?;
    template.check().map_err(|error| unusable(error.to_string()))?;
    Ok(Some(template))
}

/// Checks that [`bind`] will succeed: the address is free, and certificate and key can be used. The daemon
/// calls it before it creates anything.
///
/// # Errors
/// See [`ServeError`].
pub fn check(config: &Config) -> Result<(), ServeError> {
    if let (Some(cert), Some(key)) = (&config.tls_cert, &config.tls_key) {
        tls::load(cert, key)?;
    }
    sockets::possible_connections(config)?;
    let address = config.listen;
    sockets::listen(address).map(drop).map_err(|error| ServeError::Bind { address, error })
}

/// Binds the server without running it; also returns the bound address.
///
/// # Errors
/// See [`ServeError`].
pub fn bind(app: &Arc<App>) -> Result<(Server, SocketAddr), ServeError> {
    bind_with(app, |_| {})
}

/// As [`bind`], with additional routes, which are matched first. Benchmarks compare our routes with one that
/// does less.
///
/// # Errors
/// See [`ServeError`].
pub fn bind_with(
    app: &Arc<App>,
    additional: fn(&mut web::ServiceConfig),
) -> Result<(Server, SocketAddr), ServeError> {
    let config = &app.config;
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(TlsAcceptor::from(Arc::new(tls::load(cert, key)?))),
        _ => None,
    };
    let (listener, address) =
        sockets::listen(config.listen).map_err(|error| ServeError::Bind { address: config.listen, error })?;
    let connections = sockets::connections(config)?;
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
                    // Ids in paths are texts, which never fail, or numbers of 64 bits.
                    .error_handler(|_, _| Error::invalid("path", json::wanted("i64")).into()),
            )
            .wrap(from_fn(http::refuse_when_clock_jumped))
            .wrap(from_fn(answer::report_to_connection))
            .wrap(Compress::default())
            .wrap(from_fn(http::refuse_nul))
            .wrap(from_fn(http::observe))
            .configure(additional)
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
            .on_connect_ext(|stream: &WatchedStream, data| {
                data.insert(Rc::clone(&stream.connection));
            })
            .finish(map_config(routes, |()| AppConfig::default()));
        connection_service(http, connections.clone(), tls.clone(), request_timeout)
    };
    let server =
        server.listen("coulomb", listener, make).map_err(|error| ServeError::Bind { address, error })?;
    Ok((server.run(), address))
}

/// A service that serves a connection until it ends, waits too long, or must make place for another one.
fn connection_service<H>(
    http: H,
    connections: Arc<Connections>,
    tls: Option<TlsAcceptor>,
    handshake_timeout: Duration,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = DispatchError, InitError = ()>
where
    H: ServiceFactory<
            (WatchedStream, Protocol, Option<SocketAddr>),
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
                let opened = connections.open();
                async move {
                    let Some(connection) = opened else { return Ok(()) };
                    let served = async {
                        let address = stream.peer_addr().ok();
                        let wire = match tls {
                            None => Wire::Plain(stream),
                            Some(tls) => {
                                match tokio::time::timeout(handshake_timeout, tls.accept(stream)).await {
                                    Ok(Ok(stream)) => Wire::Tls(Box::new(stream)),
                                    Ok(Err(_)) | Err(_) => return Ok(()),
                                }
                            }
                        };
                        let stream = WatchedStream { wire, connection: Rc::clone(&connection) };
                        http.call((stream, Protocol::Http1, address)).await
                    };
                    tokio::select! {
                        biased;
                        () = connection.until_closed() => Ok(()),
                        result = served => result,
                    }
                }
            }))
        }
    })
}

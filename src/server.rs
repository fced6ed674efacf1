//! The HTTP server: limits, timeouts, TLS and draining around the routes.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use actix_web::dev::Server;
use actix_web::middleware::{Compress, from_fn};
use actix_web::{HttpServer, web};
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::app::App;
use crate::config::ConfigError;
use crate::error::Error;
use crate::{http, routes};

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
    /// Certificate or key cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// A bound server, not yet running, and the address that it got.
///
/// # Errors
/// See [`ServeError`].
pub fn bind(app: &Arc<App>) -> Result<(Server, std::net::SocketAddr), ServeError> {
    bind_with(app, |_| {})
}

/// As [`bind`], with further routes, which are tried before ours: a benchmark compares ours with one that does less.
///
/// # Errors
/// See [`ServeError`].
pub fn bind_with(
    app: &Arc<App>,
    further: fn(&mut web::ServiceConfig),
) -> Result<(Server, std::net::SocketAddr), ServeError> {
    let config = &app.config;
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(tls(cert, key)?),
        _ => None,
    };
    let data = web::Data::from(Arc::clone(app));
    let server = HttpServer::new(move || {
        actix_web::App::new()
            .app_data(data.clone())
            .app_data(
                web::PathConfig::default()
                    .error_handler(|error, _| Error::invalid("path", error.to_string()).into()),
            )
            .app_data(
                web::QueryConfig::default()
                    .error_handler(|error, _| Error::invalid("query", error.to_string()).into()),
            )
            .wrap(from_fn(http::refuse_when_clock_jumped))
            .wrap(Compress::default())
            .wrap(from_fn(http::observe))
            .configure(further)
            .configure(routes::all)
    })
    .client_request_timeout(Duration::from_secs(u64::from(config.request_timeout_s)))
    .client_disconnect_timeout(Duration::from_secs(5))
    .keep_alive(Duration::from_secs(u64::from(config.keep_alive_s)))
    .shutdown_timeout(u64::from(config.drain_s))
    .max_connections(config.max_connections as usize)
    .disable_signals();
    let server =
        if config.http_workers == 0 { server } else { server.workers(usize::from(config.http_workers)) };
    let address = config.listen;
    let server = match tls {
        Some(tls) => server.bind_rustls_0_23(address, tls),
        None => server.bind(address),
    }
    .map_err(|error| ServeError::Bind { address, error })?;
    let bound = server.addrs().first().copied().unwrap_or(address);
    Ok((server.run(), bound))
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

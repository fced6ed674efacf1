//! The TLS settings of the server.

use std::path::Path;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::ConfigError;

/// Reads the certificate chain and the private key.
///
/// # Errors
/// Names the setting whose file cannot be used.
pub(super) fn load(cert: &Path, key: &Path) -> Result<ServerConfig, ConfigError> {
    let error_of = |name: &str, path: &Path, error: String| ConfigError {
        name: name.to_owned(),
        problem: format!("names {}, which cannot be used: {error}", path.display()),
    };
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| error_of("COULOMB_TLS_CERT", cert, error.to_string()))?;
    let key_der = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| error_of("COULOMB_TLS_KEY", key, error.to_string()))?;
    ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())
        .and_then(|builder| {
            builder.with_no_client_auth().with_single_cert(chain, key_der).map_err(|error| error.to_string())
        })
        .map_err(|error| error_of("COULOMB_TLS_CERT", cert, error))
}

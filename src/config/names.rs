//! The names of all settings. A misspelled name is refused: the default would silently stay in force.

use std::collections::BTreeMap;

use super::sources::file_key;
use super::{ConfigError, NAMES};

/// Names with our prefix that are not settings: the path of the settings file, and names that tests,
/// benchmarks and scripts use.
const OTHER_NAMES: [&str; 5] =
    ["COULOMB_CONFIG", "COULOMB_STRIPE_EVENTS", "COULOMB_BIN", "COULOMB_URL", "COULOMB_KEY"];
/// Prefix of names that tests use.
const TEST_PREFIX: &str = "COULOMB_TEST_";

/// This process's environment.
///
/// # Errors
/// The value of one of our names is not UTF-8.
pub(super) fn environment() -> Result<BTreeMap<String, String>, ConfigError> {
    let mut env = BTreeMap::new();
    for (name, value) in std::env::vars_os() {
        let Some(name) = name.to_str() else { continue };
        match value.into_string() {
            Ok(value) => drop(env.insert(name.to_owned(), value)),
            Err(_) if name.starts_with("COULOMB_") || is_setting(name) => {
                return Err(ConfigError { name: name.to_owned(), problem: "must be UTF-8".to_owned() });
            }
            Err(_) => {}
        }
    }
    Ok(env)
}

/// Checks that every name with our prefix is known.
///
/// # Errors
/// An unknown name, and the setting with the most similar name.
pub(super) fn check(env: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let unknown = env.iter().find(|(name, value)| {
        name.starts_with("COULOMB_")
            && !is_setting(name)
            && !OTHER_NAMES.contains(&name.as_str())
            && !name.starts_with(TEST_PREFIX)
            && !is_service_link(name, value)
    });
    match unknown {
        None => Ok(()),
        Some((name, _)) => Err(ConfigError {
            name: name.clone(),
            problem: format!("is not a setting: {}", hint(name, env_names())),
        }),
    }
}

/// Whether the settings file may have this key.
pub(super) fn is_file_key(key: &str) -> bool {
    file_keys().any(|known| known == key)
}

fn is_setting(name: &str) -> bool {
    env_names().any(|known| known == name)
}

/// All setting names in the environment, with the `<NAME>_FILE` of secrets.
fn env_names() -> impl Iterator<Item = String> {
    let files = NAMES.iter().filter(|(_, secret)| *secret).map(|(name, _)| format!("{name}_FILE"));
    NAMES.iter().map(|(name, _)| (*name).to_owned()).chain(files)
}

/// All keys that the settings file may have.
pub(super) fn file_keys() -> impl Iterator<Item = String> {
    env_names().map(|name| file_key(&name))
}

/// "did you mean …?" if a known name is similar, else where to find all names.
pub(super) fn hint(name: &str, known: impl Iterator<Item = String>) -> String {
    // The prefix is common to all names, so it does not count.
    let without_prefix = |name: &str| name.strip_prefix("COULOMB_").unwrap_or(name).to_owned();
    let similarity = |known: &String| strsim::jaro_winkler(&without_prefix(name), &without_prefix(known));
    let nearest = known.max_by(|one, other| similarity(one).total_cmp(&similarity(other)));
    match nearest.filter(|nearest| similarity(nearest) > 0.8) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "`coulomb config` lists them".to_owned(),
    }
}

/// Whether Kubernetes set this variable, for a service called `coulomb` or `coulomb-…`, or Docker, for a link
/// of that name.
/// <https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables>
fn is_service_link(name: &str, value: &str) -> bool {
    let scheme = ["tcp://", "udp://", "sctp://"].iter().any(|scheme| value.starts_with(scheme));
    let of_port = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let mut parts = rest.splitn(3, '_');
        parts.next().is_some_and(|port| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()))
            && parts.next().is_some_and(|protocol| ["TCP", "UDP", "SCTP"].contains(&protocol))
            && parts.next().is_none_or(|part| ["ADDR", "PORT", "PROTO"].contains(&part))
    });
    let service =
        name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_");
    name.starts_with("COULOMB_") && (service || of_port || (name.ends_with("_PORT") && scheme))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_of_service_links_are_ignored() {
        for (name, value) in [
            ("COULOMB_SERVICE_HOST", "10.0.0.1"),
            ("COULOMB_SERVICE_PORT", "8080"),
            ("COULOMB_SERVICE_PORT_HTTP", "8080"),
            ("COULOMB_PORT", "tcp://10.0.0.1:8080"),
            ("COULOMB_API_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("COULOMB_PORT_8080_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in
            [("COULOMB_PORT", "8080"), ("COULOMB_POOL_SIZ", "3"), ("COULOMB_PORT_80", "tcp://")]
        {
            assert!(!is_service_link(name, value), "{name}");
        }
    }
}

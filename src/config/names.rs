//! Which names are settings. A misspelled one must not silently leave a default in force.

use std::collections::BTreeMap;

use super::{ConfigError, NAMES, file_key};

/// Names with our prefix that are no settings: the settings file, what tests and benchmarks read, and by
/// which scripts call the daemon and its API.
const OTHERS: [&str; 5] =
    ["COULOMB_CONFIG", "COULOMB_STRIPE_EVENTS", "COULOMB_BIN", "COULOMB_URL", "COULOMB_KEY"];
const TESTS: &str = "COULOMB_TEST_";

/// This process's environment.
///
/// # Errors
/// One of our names has a value that is not UTF-8.
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

/// Refuses a name with our prefix that nothing reads.
///
/// # Errors
/// Names it, and the setting that is most like it.
pub(super) fn check(env: &BTreeMap<String, String>) -> Result<(), ConfigError> {
    let unknown = env.iter().find(|(name, value)| {
        name.starts_with("COULOMB_")
            && !is_setting(name)
            && !OTHERS.contains(&name.as_str())
            && !name.starts_with(TESTS)
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
pub(super) fn in_file(key: &str) -> bool {
    file_keys().any(|known| known == key)
}

fn is_setting(name: &str) -> bool {
    env_names().any(|known| known == name)
}

fn env_names() -> impl Iterator<Item = String> {
    let files = NAMES.iter().filter(|(_, secret)| *secret).map(|(name, _)| format!("{name}_FILE"));
    NAMES.iter().map(|(name, _)| (*name).to_owned()).chain(files)
}

/// The keys of the settings file.
pub(super) fn file_keys() -> impl Iterator<Item = String> {
    env_names().map(|name| file_key(&name))
}

/// "did you mean …?", where a known name is like it.
pub(super) fn hint(name: &str, known: impl Iterator<Item = String>) -> String {
    // What all names have in common says nothing.
    let own = |name: &str| name.strip_prefix("COULOMB_").unwrap_or(name).to_owned();
    let likeness = |known: &String| strsim::jaro_winkler(&own(name), &own(known));
    let nearest = known.max_by(|one, other| likeness(one).total_cmp(&likeness(other)));
    match nearest.filter(|nearest| likeness(nearest) > 0.8) {
        Some(nearest) => format!("did you mean {nearest}?"),
        None => "`coulomb config` lists them".to_owned(),
    }
}

/// Kubernetes sets these for a service called `coulomb` or `coulomb-…`, Docker for a link of that name.
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
    fn links_of_services_are_no_settings() {
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

//! Adds timeouts to the address of a database: without them libpq waits for ever.

/// Parameters for each connection, unless its address or libpq's environment variable sets them. They notice
/// a dead host within eight seconds: data that it does not acknowledge, or, when nothing is sent, a keepalive
/// probe that it does not answer.
const TIMEOUTS: [(&str, &str); 6] = [
    ("connect_timeout", "3"),
    ("keepalives", "1"),
    ("keepalives_idle", "4"),
    ("keepalives_interval", "2"),
    ("keepalives_count", "2"),
    ("tcp_user_timeout", "6000"),
];
/// The only one that libpq also reads from the environment (libpq manual, "Environment Variables").
const FROM_ENVIRONMENT: (&str, &str) = ("connect_timeout", "PGCONNECT_TIMEOUT");

/// Adds our timeouts to `address` (a URL or `key=value` pairs), except those that it sets itself.
#[must_use]
pub(super) fn with_timeouts(address: &str) -> String {
    let from_environment = std::env::var_os(FROM_ENVIRONMENT.1).is_some();
    let wanted = |named: &[String]| {
        let missing = |(name, _): &(&str, &str)| {
            let in_environment = from_environment && *name == FROM_ENVIRONMENT.0;
            !in_environment && !named.iter().any(|one| one == name)
        };
        TIMEOUTS
            .into_iter()
            .filter(missing)
            .map(|(name, value)| format!("{name}={value}"))
            .collect::<Vec<_>>()
    };
    let url = ["postgresql://", "postgres://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    if let Some(rest) = url {
        let parameters = parameters(rest);
        let named: Vec<String> = parameters
            .into_iter()
            .flat_map(|all| all.split('&'))
            .map(|one| one.split('=').next().unwrap_or_default().to_owned())
            .collect();
        let before = match parameters {
            None => "?",
            Some("") => "",
            Some(_) => "&",
        };
        return match wanted(&named).join("&") {
            all if all.is_empty() => address.to_owned(),
            all => format!("{address}{before}{all}"),
        };
    }
    match keys(address) {
        Some(named) => wanted(&named).into_iter().fold(address.to_owned(), |all, one| format!("{all} {one}")),
        None => address.to_owned(),
    }
}

/// The part of a URL after its question mark; `rest` is the URL without its scheme. A question mark in the
/// password does not count (as in libpq's `conninfo_uri_parse_options`).
fn parameters(rest: &str) -> Option<&str> {
    let after_credentials = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => &rest[at + 1..],
        _ => rest,
    };
    after_credentials.split_once('?').map(|(_, parameters)| parameters)
}

/// The keys of `key=value` pairs, whose values may be quoted; `None` if the text is not such a list (as in
/// libpq's `conninfo_parse`).
fn keys(text: &str) -> Option<Vec<String>> {
    let mut keys = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=')?;
        keys.push(key.trim_end().to_owned());
        let after = after.trim_start();
        let quoted = after.starts_with('\'');
        let mut escaped = false;
        let end = after.char_indices().skip(usize::from(quoted)).find(|(_, one)| {
            let ends = !escaped && if quoted { *one == '\'' } else { one.is_whitespace() };
            escaped = !escaped && *one == '\\';
            ends
        });
        rest = end.map_or("", |(at, one)| &after[at + one.len_utf8()..]).trim_start();
    }
    Some(keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "connect_timeout=3&keepalives=1&keepalives_idle=4&keepalives_interval=2\
        &keepalives_count=2&tcp_user_timeout=6000";

    #[test]
    fn an_address_gets_the_timeouts_that_it_does_not_set() {
        assert_eq!(with_timeouts("postgresql://a/b"), format!("postgresql://a/b?{ALL}"));
        assert_eq!(with_timeouts("postgres://u:p?w@a/b"), format!("postgres://u:p?w@a/b?{ALL}"));
        assert_eq!(
            with_timeouts("postgres://a/b?sslmode=require"),
            format!("postgres://a/b?sslmode=require&{ALL}")
        );
        assert_eq!(with_timeouts("postgres://?host=/run"), format!("postgres://?host=/run&{ALL}"));
        let own = with_timeouts("postgres://a/b?keepalives=0&connect_timeout=30");
        assert!(
            own.starts_with("postgres://a/b?keepalives=0&connect_timeout=30&keepalives_idle=4&"),
            "{own}"
        );
        assert!(!own.contains("keepalives=1") && !own.contains("connect_timeout=3&"), "{own}");
        let pairs = with_timeouts(r"host=a password='it\'s = tcp_user_timeout=1' connect_timeout = 9");
        assert!(pairs.contains("tcp_user_timeout=6000") && !pairs.contains("connect_timeout=3"), "{pairs}");
        assert_eq!(with_timeouts("no address"), "no address");
    }
}

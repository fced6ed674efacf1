//! The address of a database with bounds on how long its connections may be silent. libpq waits for ever
//! unless it is told.

/// What is asked of each connection unless its address, or libpq's variable of the environment, says
/// otherwise. A host that is gone is noticed within eight seconds: by what was sent and not acknowledged, or
/// by a probe where nothing is sent.
const BOUNDS: [(&str, &str); 6] = [
    ("connect_timeout", "3"),
    ("keepalives", "1"),
    ("keepalives_idle", "4"),
    ("keepalives_interval", "2"),
    ("keepalives_count", "2"),
    ("tcp_user_timeout", "6000"),
];
/// The only one of them that libpq takes from the environment, too (libpq manual, "Environment Variables").
const FROM_ENVIRONMENT: (&str, &str) = ("connect_timeout", "PGCONNECT_TIMEOUT");

/// `address`, a URL or `key=value` pairs, with our bounds where it names none.
#[must_use]
pub(super) fn bounded(address: &str) -> String {
    let from_environment = std::env::var_os(FROM_ENVIRONMENT.1).is_some();
    let wanted = |named: &[String]| {
        let missing = |(name, _): &(&str, &str)| {
            let told_elsewhere = from_environment && *name == FROM_ENVIRONMENT.0;
            !told_elsewhere && !named.iter().any(|one| one == name)
        };
        BOUNDS.into_iter().filter(missing).map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>()
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

/// What follows the question mark of a URL, after its scheme. One in the password is none
/// (`conninfo_uri_parse_options`).
fn parameters(rest: &str) -> Option<&str> {
    let after_credentials = match rest.find(['@', '/']) {
        Some(at) if rest[at..].starts_with('@') => &rest[at + 1..],
        _ => rest,
    };
    after_credentials.split_once('?').map(|(_, parameters)| parameters)
}

/// The keys of `key=value` pairs, with values quoted or not; `None` where it is something else
/// (`conninfo_parse`).
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
    fn an_address_gets_the_bounds_that_it_does_not_name() {
        assert_eq!(bounded("postgresql://a/b"), format!("postgresql://a/b?{ALL}"));
        assert_eq!(bounded("postgres://u:p?w@a/b"), format!("postgres://u:p?w@a/b?{ALL}"));
        assert_eq!(
            bounded("postgres://a/b?sslmode=require"),
            format!("postgres://a/b?sslmode=require&{ALL}")
        );
        assert_eq!(bounded("postgres://?host=/run"), format!("postgres://?host=/run&{ALL}"));
        let own = bounded("postgres://a/b?keepalives=0&connect_timeout=30");
        assert!(
            own.starts_with("postgres://a/b?keepalives=0&connect_timeout=30&keepalives_idle=4&"),
            "{own}"
        );
        assert!(!own.contains("keepalives=1") && !own.contains("connect_timeout=3&"), "{own}");
        let pairs = bounded(r"host=a password='it\'s = tcp_user_timeout=1' connect_timeout = 9");
        assert!(pairs.contains("tcp_user_timeout=6000") && !pairs.contains("connect_timeout=3"), "{pairs}");
        assert_eq!(bounded("no address"), "no address");
    }
}

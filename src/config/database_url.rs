//! Checks database URLs, and shows them without their password.
//!
//! libpq's errors repeat text that it cannot parse, and that may be a part of the password. So libpq gets
//! only text that it parses as we do: a URL with properly encoded parts, or `key=value` pairs.
//! <https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-CONNSTRING>

const SCHEMES: [&str; 2] = ["postgres://", "postgresql://"];

/// The parts of a URL, split as libpq does.
struct UrlParts<'a> {
    /// `user:password`, percent-encoded.
    user: &'a str,
    hosts: &'a str,
    database: &'a str,
    options: &'a str,
}

/// `None` if the text is not a URL of PostgreSQL.
fn split_url(url: &str) -> Option<UrlParts<'_>> {
    let rest = SCHEMES.iter().find_map(|scheme| url.strip_prefix(scheme))?;
    let user_end = rest.find(['@', '/']).filter(|at| rest[*at..].starts_with('@'));
    let (user, rest) = user_end.map_or(("", rest), |at| (&rest[..at], &rest[at + 1..]));
    let (place, options) = rest.split_once('?').unwrap_or((rest, ""));
    let (hosts, database) = place.split_once('/').unwrap_or((place, ""));
    Some(UrlParts { user, hosts, database, options })
}

/// Checks the text without connecting. The error continues the sentence "DATABASE_URL …" and repeats no part
/// of the value.
pub(super) fn check(text: &str) -> Result<(), &'static str> {
    let text = text.trim();
    let Some(parts) = split_url(text) else {
        return if text.contains("://") || !text.contains('=') {
            Err("must begin with postgres:// or postgresql://")
        } else {
            split_pairs(text).map(drop)
        };
    };
    if parts.hosts.contains('@') {
        return Err("has more than one @: in a password write @ as %40 and % as %25");
    }
    if parts.database.contains('@') {
        return Err("has an @ after the first /: in a password write / as %2F, @ as %40 and % as %25");
    }
    if !text.split('%').skip(1).all(|after| {
        let bytes = after.as_bytes();
        bytes.len() >= 2 && bytes[..2].iter().all(u8::is_ascii_hexdigit) && !after.starts_with("00")
    }) {
        return Err("has a % that is not followed by two hexadecimal digits: in a password write % as %25");
    }
    if !parts.hosts.split(',').all(has_valid_port) {
        return Err("has a port that is not a number");
    }
    if !parts.options.is_empty() && !parts.options.split('&').all(|option| option.matches('=').count() == 1) {
        return Err("has an option after ? that is not NAME=VALUE");
    }
    Ok(())
}

fn has_valid_port(host: &str) -> bool {
    let after = host.rsplit_once(']').map_or(host, |(_, after)| after);
    let Some((_, port)) = after.split_once(':') else { return true };
    port.is_empty() || port.parse::<u16>().is_ok_and(|port| port > 0)
}

/// Splits a connection string such as `host=/run/postgresql dbname='my db'`.
fn split_pairs(text: &str) -> Result<Vec<(String, String)>, &'static str> {
    const WRONG: &str =
        "is neither a postgres:// URL nor a list of NAME=VALUE: put a value with blanks in '…'";
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').ok_or(WRONG)?;
        let name = name.trim_end();
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') {
            return Err(WRONG);
        }
        let (value, left) = split_value(after.trim_start()).ok_or(WRONG)?;
        if name == "port" && !value.split(',').all(|port| port.is_empty() || port.parse::<u16>().is_ok()) {
            return Err("has a port that is not a number");
        }
        pairs.push((name.to_owned(), value));
        rest = left.trim_start();
    }
    Ok(pairs)
}

/// The value at the start of `text`, and the text after it; `None` if a quote is not closed.
fn split_value(text: &str) -> Option<(String, &str)> {
    let quoted = text.starts_with('\'');
    let mut value = String::new();
    let mut chars = text.char_indices().skip(usize::from(quoted));
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => value.push(chars.next()?.1),
            '\'' if quoted => return Some((value, &text[at + 1..])),
            blank if !quoted && blank.is_whitespace() => return Some((value, &text[at..])),
            other => value.push(other),
        }
    }
    (!quoted).then_some((value, ""))
}

/// The database's name and host, for people: without password, user and options.
#[must_use]
pub fn describe_database(url: &str) -> String {
    if let Some(parts) = split_url(url) {
        let (hosts, database) = (percent_decoded(parts.hosts), percent_decoded(parts.database));
        return format!(
            "{} at {}",
            or_default(&database, "the database"),
            or_default(&hosts, "this machine")
        );
    }
    let pairs = split_pairs(url).unwrap_or_default();
    let value_of =
        |wanted: &str| pairs.iter().find(|(name, _)| name == wanted).map_or("", |(_, value)| value);
    format!(
        "{} at {}",
        or_default(value_of("dbname"), "the database"),
        or_default(value_of("host"), "this machine")
    )
}

fn or_default<'a>(text: &'a str, default: &'a str) -> &'a str {
    if text.is_empty() { default } else { text }
}

/// Replaces the URL's password in a message, encoded and decoded.
#[must_use]
pub fn redact_password(url: &str, message: &str) -> String {
    let mut secrets = vec![url.to_owned()];
    match split_url(url) {
        Some(parts) => {
            if let Some((_, password)) = parts.user.split_once(':') {
                secrets.extend([password.to_owned(), percent_decoded(password)]);
            }
            for option in parts.options.split('&') {
                if let Some((_, value)) = option.split_once('=').filter(|(name, _)| name.contains("password"))
                {
                    secrets.extend([value.to_owned(), percent_decoded(value)]);
                }
            }
        }
        None => {
            let pairs = split_pairs(url).unwrap_or_default();
            secrets.extend(
                pairs.into_iter().filter(|(name, _)| name.contains("password")).map(|(_, value)| value),
            );
        }
    }
    secrets.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
    // One or two characters occur in many words: replacing them would make the message unreadable.
    let secrets = secrets.iter().filter(|secret| secret.len() > 2);
    secrets.fold(message.to_owned(), |message, secret| message.replace(secret.as_str(), "…"))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| *first == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_libpq_can_parse_are_accepted() {
        for url in [
            "postgres://coulomb:p%40ss@db.example:5432/coulomb?sslmode=verify-full&sslrootcert=/etc/ca.crt",
            "postgresql:///coulomb?host=/run/postgresql",
            "postgresql://coulomb:secret@%2Fsrv%2Fdata%2Frun:5432/coulomb",
            "postgres://u:p@[::1]:5432,other:5433/db",
            "postgres://u:pa?ss@h/db",
            "host=/run/postgresql dbname = coulomb password='it''s' ",
            "host=db password='my \\'secret\\' word' port=5432",
        ] {
            assert_eq!(check(url).is_ok(), !url.contains("''"), "{url}");
        }
    }

    #[test]
    fn addresses_that_libpq_would_repeat_are_refused_without_their_text() {
        for url in [
            "mysql://u:hunter2@h/db",
            "hunter2",
            "postgres://u:hun@ter2@h/db",
            "postgres://u:hun/ter2@h/db",
            "postgres://u:hun%ter2@h/db",
            "postgres://u@h:hunter2/db",
            "postgres://u@h/db?hunter2",
            "host=h password=my hunter2",
            "password='hunter2",
        ] {
            let problem = check(url).expect_err(url);
            assert!(!problem.contains("hun") && !problem.contains("ter2"), "{problem}");
        }
    }

    #[test]
    fn a_password_is_not_shown() {
        let url = "postgres://coulomb:p%40ssword@db.example:5432/books?sslpassword=other";
        assert_eq!(describe_database(url), "books at db.example:5432");
        let message = format!("cannot use {url}, p@ssword, p%40ssword, other");
        assert_eq!(redact_password(url, &message), "cannot use …, …, …, …");
        assert_eq!(describe_database("host=h dbname=d password=x"), "d at h");
        assert_eq!(redact_password("host=h password=hunter2", "no hunter2"), "no …");
    }
}

//! Requests to addresses that others choose. They reach the outside only: never this machine, its network or
//! a cloud's metadata service (server-side request forgery, OWASP SSRF Prevention).
//!
//! One place resolves a name, checks every address and connects: [`client`]'s connector. Nothing resolves a
//! second time, so a name server that answers differently the next time changes nothing. There are no
//! redirects, and no proxy of the environment is used.

pub mod addresses;
pub mod allow;
pub mod client;
mod connector;

pub use self::allow::AllowList;
pub use self::client::{Client, ClientOptions, Outgoing, Reply, SendError, WholeReply};
pub use self::connector::{Resolve, SystemResolver};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hyper::Uri;
use url::{Host, Url};

/// Longest URL, in bytes.
const URL_LIMIT: usize = 2000;

/// Which targets may be sent to.
#[derive(Clone, Debug, Default)]
pub struct TargetRules {
    /// Whether `http` is allowed beside `https`.
    pub allow_http: bool,
    /// Networks and hosts of the inside that may be reached all the same.
    pub allowed: AllowList,
}

impl TargetRules {
    /// Checks the parts of a URL that can be checked without resolving its name. An address in any form that
    /// the URL standard reads (`2130706433`, `0x7f.1`) is checked as what it is. Returns the URL in its
    /// normal form, a host of other letters as punycode: this is what to keep.
    ///
    /// # Errors
    /// The rule that it breaks: a sentence that begins with `must`.
    pub fn check_url(&self, text: &str) -> Result<Url, String> {
        if text.len() > URL_LIMIT {
            return Err(format!("must be at most {URL_LIMIT} bytes"));
        }
        // The URL standard repairs these: it drops line ends, and reads `\\` and `///` as others do not.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err("must have no control characters, no spaces and no `\\`".to_owned());
        }
        let url = parse(text)?;
        if text.split_once("://").is_none_or(|(_, rest)| rest.starts_with(['/', '?', '#'])) {
            return Err("must name a host after `://`".to_owned());
        }
        match url.scheme() {
            "https" => {}
            "http" if self.allow_http => {}
            "http" => return Err("must be https: COULOMB_MESSAGE_ALLOW_HTTP is not set".to_owned()),
            _ => return Err("must be https".to_owned()),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err("must have no user name and no password".to_owned());
        }
        if url.fragment().is_some() {
            return Err("must have no fragment (`#…`)".to_owned());
        }
        if url.port() == Some(0) {
            return Err("must have a port above 0".to_owned());
        }
        let address = match url.host() {
            Some(Host::Ipv4(address)) => Some(address.into()),
            Some(Host::Ipv6(address)) => Some(address.into()),
            Some(Host::Domain(name)) if !name.trim_end_matches('.').is_empty() => None,
            _ => return Err("must name a host".to_owned()),
        };
        let is_inside =
            url.host_str().is_some_and(|name| is_localhost(name) && !self.may_reach_loopback(name));
        if is_inside
            || address.is_some_and(|address| !self.allowed.may_reach(url.host_str().unwrap_or(""), address))
        {
            return Err(
                "must not be localhost or an address of the inside: COULOMB_MESSAGE_ALLOW lists exceptions"
                    .to_owned(),
            );
        }
        Ok(url)
    }

    fn may_reach_loopback(&self, name: &str) -> bool {
        [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)]
            .into_iter()
            .any(|address| self.allowed.may_reach(name, address))
    }
}

/// Names that every machine resolves to itself: RFC 6761, section 6.3.
fn is_localhost(host: &str) -> bool {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    host == "localhost" || host.ends_with(".localhost")
}

/// Reads a URL as the URL standard does. In its normal form the HTTP library reads it, too, with the same
/// host: no other one is checked than the one that is asked.
///
/// # Errors
/// A sentence that begins with `must`.
fn parse(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|_| "must be a URL, such as https://example.com/hook".to_owned())?;
    let read = url.as_str().parse::<Uri>();
    if read.is_ok_and(|read| read.host() == url.host_str()) {
        return Ok(url);
    }
    Err("must have a host of letters, digits, `-` and `.`, such as https://example.com/hook".to_owned())
}

#[cfg(test)]
mod tests;

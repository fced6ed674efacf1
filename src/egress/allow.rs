//! The operator's list of inside targets that may be reached.

use std::net::IpAddr;

use super::addresses::is_public;
use crate::networks::Network;

/// Networks, addresses and hosts of the inside that may be reached.
#[derive(Clone, Debug, Default)]
pub struct AllowList {
    networks: Vec<Network>,
    /// In lower case.
    hosts: Vec<String>,
}

impl AllowList {
    /// Reads networks (`10.1.0.0/16`), addresses and host names, separated by commas.
    ///
    /// # Errors
    /// The rest of a sentence that begins with the setting's name.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            let is_letter = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if let Some(network) = Network::parse(entry) {
                list.networks.push(network);
            } else if entry.chars().all(is_letter) && entry.chars().any(|c| c.is_ascii_alphabetic()) {
                list.hosts.push(entry.to_ascii_lowercase());
            } else {
                return Err(format!(
                    "names `{entry}`, but must be networks (10.1.0.0/16), addresses and host names, \
                     separated by commas"
                ));
            }
        }
        Ok(list)
    }

    /// Whether a connection to `address`, which stands for `host`, may be opened.
    #[must_use]
    pub fn may_reach(&self, host: &str, address: IpAddr) -> bool {
        let host = host.trim_end_matches('.');
        is_public(address)
            || self.networks.iter().any(|network| network.contains(address))
            || self.hosts.iter().any(|allowed| allowed.eq_ignore_ascii_case(host))
    }
}

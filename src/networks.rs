//! Networks: sets of addresses, as settings name them.

use std::net::{IpAddr, Ipv6Addr};

/// Networks, each an address or `address/bits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    text: String,
    /// Each as IPv6: its first address, and how many bits all of its addresses share.
    all: Vec<(u128, u32)>,
}

impl Networks {
    /// Reads networks that commas separate.
    ///
    /// # Errors
    /// Says which is no network.
    pub fn read(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let wrong = |name: &str| format!("has `{name}`, which is no address or network such as 10.0.0.0/8");
        let all = names.map(|name| network(name).ok_or_else(|| wrong(name))).collect::<Result<_, _>>()?;
        Ok(Self { text: text.to_owned(), all })
    }

    /// Whether one of them has this address.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        !self.all.is_empty() && {
            let address = bits(address);
            self.all.iter().any(|(start, length)| (address ^ start) & mask(*length) == 0)
        }
    }
}

/// The network that counts as one client: an IPv4 address, or the /64 of an IPv6 address, which one customer
/// of a provider has as a whole (RFC 6177).
#[must_use]
pub fn client(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64))),
    }
}

impl std::fmt::Display for Networks {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.text)
    }
}

fn network(text: &str) -> Option<(u128, u32)> {
    let (address, length) = match text.split_once('/') {
        Some((address, length)) => (address, Some(length.parse::<u32>().ok()?)),
        None => (text, None),
    };
    let address: IpAddr = address.parse().ok()?;
    let whole = if address.is_ipv4() { 32 } else { 128 };
    let length = length.unwrap_or(whole);
    (length <= whole).then(|| (bits(address), length + 128 - whole))
}

/// The address as IPv6; an IPv4 address is mapped (`::ffff:a.b.c.d`, RFC 4291).
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits()),
    }
    .to_bits()
}

fn mask(length: u32) -> u128 {
    u128::MAX.checked_shl(128 - length).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_the_addresses_that_begin_alike() {
        let networks = Networks::read("10.0.0.0/8, 192.168.1.7,fd00::/8,::1").expect("networks");
        for (address, is_in) in [
            ("10.255.0.1", true),
            ("11.0.0.1", false),
            ("192.168.1.7", true),
            ("192.168.1.8", false),
            ("fdff::1", true),
            ("fe00::1", false),
            ("::1", true),
            ("::ffff:10.1.1.1", true),
            ("::2", false),
        ] {
            assert_eq!(networks.has(address.parse().expect("an address")), is_in, "{address}");
        }
        let all = Networks::read("0.0.0.0/0").expect("a network");
        assert!(all.has("8.8.8.8".parse().expect("an address")));
        assert!(!all.has("2001:db8::1".parse().expect("an address")));
        for wrong in ["10.0.0.0/33", "::/129", "x", "10.0.0.0/", "10.0.0"] {
            assert!(Networks::read(wrong).is_err(), "{wrong}");
        }
    }
}

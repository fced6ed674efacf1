//! Networks: sets of addresses, as settings name them.

use std::net::{IpAddr, Ipv6Addr};

/// A network: its first address, and how many bits all of its addresses share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    first: IpAddr,
    bits: u8,
}

impl Network {
    pub(crate) const fn new(first: IpAddr, bits: u8) -> Self {
        Self { first, bits }
    }

    /// Reads `10.0.0.0/8`, `fd00::/8`, or a single address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().ok()?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { first, bits })
    }

    /// Whether the address is in the network. IPv4 and IPv6 never mix.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                begin_alike(first.to_bits().into(), address.to_bits().into(), 32, self.bits)
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                begin_alike(first.to_bits(), address.to_bits(), 128, self.bits)
            }
            _ => false,
        }
    }
}

/// Whether two numbers of `width` bits have the same first `bits` bits.
fn begin_alike(one: u128, other: u128, width: u32, bits: u8) -> bool {
    (one ^ other).checked_shr(width - u32::from(bits)).unwrap_or(0) == 0
}

/// Networks, each an address or `address/bits`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    text: String,
    all: Vec<Network>,
}

impl Networks {
    /// Reads networks that commas separate.
    ///
    /// # Errors
    /// Says which is no network.
    pub fn read(text: &str) -> Result<Self, String> {
        let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
        let wrong = |name: &str| format!("has `{name}`, which is no address or network such as 10.0.0.0/8");
        let all = names.map(|name| Network::parse(name).ok_or_else(|| wrong(name)));
        Ok(Self { text: text.to_owned(), all: all.collect::<Result<_, _>>()? })
    }

    /// Whether one of them has this address. An IPv4 address that is written as IPv6 (`::ffff:a.b.c.d`) is
    /// one of IPv4.
    #[must_use]
    pub fn has(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.all.iter().any(|network| network.contains(address))
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

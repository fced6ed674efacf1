//! Which addresses belong to the public internet.
//!
//! Source: IANA's registries of special-purpose addresses for IPv4 and IPv6 (RFC 6890), as of 2026. Of IPv6
//! only global unicast (2000::/3) can be public: mapped, compatible and translated addresses (RFC 4291, RFC
//! 6052, RFC 8215) lead to an IPv4 address that nobody has checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::networks::Network;

const fn v4(a: u8, b: u8, c: u8, bits: u8) -> Network {
    Network::new(IpAddr::V4(Ipv4Addr::new(a, b, c, 0)), bits)
}

const fn v6(a: u16, b: u16, c: u16, bits: u8) -> Network {
    Network::new(IpAddr::V6(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0)), bits)
}

/// IPv4 networks that are not public.
const INSIDE_V4: &[Network] = &[
    v4(0, 0, 0, 8),      // this network
    v4(10, 0, 0, 8),     // private
    v4(100, 64, 0, 10),  // shared by a carrier's customers
    v4(127, 0, 0, 8),    // loopback
    v4(169, 254, 0, 16), // link-local, and the metadata service of most clouds
    v4(172, 16, 0, 12),  // private
    v4(192, 0, 0, 24),   // IETF protocols
    v4(192, 0, 2, 24),   // documentation
    v4(192, 31, 196, 24),
    v4(192, 52, 193, 24),
    v4(192, 88, 99, 24), // relays of 6to4
    v4(192, 168, 0, 16), // private
    v4(192, 175, 48, 24),
    v4(198, 18, 0, 15),   // benchmarks
    v4(198, 51, 100, 24), // documentation
    v4(203, 0, 113, 24),  // documentation
    v4(224, 0, 0, 4),     // multicast
    v4(240, 0, 0, 4),     // reserved, and broadcast
    // Azure's platform address: it answers every virtual machine there.
    Network::new(IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)), 32),
];

/// IPv6: everything outside of it is no global unicast.
const GLOBAL_V6: Network = v6(0x2000, 0, 0, 3);
/// Networks in [`GLOBAL_V6`] that are not public.
const INSIDE_V6: &[Network] = &[
    v6(0x2001, 0, 0, 23),     // IETF protocols: Teredo, benchmarks, ORCHID
    v6(0x2001, 0xdb8, 0, 32), // documentation
    v6(0x2002, 0, 0, 16),     // 6to4
    v6(0x2620, 0x4f, 0x8000, 48),
    v6(0x3fff, 0, 0, 20), // documentation
];

/// Whether the address is one of the public internet.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    let is_in = |networks: &[Network]| networks.iter().any(|network| network.contains(address));
    match address {
        IpAddr::V4(_) => !is_in(INSIDE_V4),
        IpAddr::V6(_) => GLOBAL_V6.contains(address) && !is_in(INSIDE_V6),
    }
}

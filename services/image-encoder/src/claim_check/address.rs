//! Decides which addresses may be fetched from. Names are resolved here, and the checked address is
//! the one connected to: a host that resolves to one address for the check and to another for the
//! connection (DNS rebinding) gains nothing.
//!
//! References: IANA's registries of special-purpose IPv4 and IPv6 addresses; RFC 6052 for IPv4
//! inside IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::{Ipv4Net, Ipv6Net};
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(first: u16, second: u16, third: u16, last: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(first, second, third, 0, 0, 0, 0, last), prefix)
}

/// Loopback, private networks, and blocks reserved for tests and documentation, which are used like
/// private ones.
const PRIVATE_V4: [Ipv4Net; 9] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(127, 0, 0, 0, 8),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 2, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
];

/// Link-local addresses, which include the clouds' metadata services, multicast and reserved
/// blocks; also the metadata services of Alibaba's and Microsoft's clouds, which have other
/// addresses.
const NEVER_V4: [Ipv4Net; 7] = [
    v4(0, 0, 0, 0, 8),
    v4(100, 100, 100, 200, 32),
    v4(168, 63, 129, 16, 32),
    v4(169, 254, 0, 0, 16),
    v4(192, 0, 0, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(224, 0, 0, 0, 3),
];

/// Loopback, unique local addresses, documentation.
const PRIVATE_V6: [Ipv6Net; 4] =
    [v6(0, 0, 0, 1, 128), v6(0x2001, 0xdb8, 0, 0, 32), v6(0x3fff, 0, 0, 0, 20), v6(0xfc00, 0, 0, 0, 7)];

/// The block that contains all public addresses.
const PUBLIC_V6: Ipv6Net = v6(0x2000, 0, 0, 0, 3);

/// Protocol assignments (Teredo among them) and 6to4; also the metadata services of Amazon's and
/// Google's clouds, which have unique local addresses.
const NEVER_V6: [Ipv6Net; 4] = [
    v6(0x2001, 0, 0, 0, 23),
    v6(0x2002, 0, 0, 0, 16),
    v6(0xfd00, 0xec2, 0, 0x254, 128),
    v6(0xfd20, 0xce, 0, 0x254, 128),
];

/// Addresses that a gateway translates to the IPv4 address in their last 32 bits (NAT64).
const TRANSLATED: Ipv6Net = v6(0x64, 0xff9b, 0, 0, 96);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AddressKind {
    Public,
    Private,
    Never,
}

/// Why an address is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedAddress {
    #[error(
        "{0} is a private address; to fetch from it, set allow_private_addresses = true in [claim_check]"
    )]
    Private(IpAddr),
    #[error(
        "{0} is a link-local, metadata, multicast or reserved address, from which nothing is fetched; serve the picture elsewhere"
    )]
    Never(IpAddr),
}

/// Checks that an address may be connected to.
pub fn check(address: IpAddr, allow_private: bool) -> Result<(), RefusedAddress> {
    match kind_of(address) {
        AddressKind::Public => Ok(()),
        AddressKind::Private if allow_private => Ok(()),
        AddressKind::Private => Err(RefusedAddress::Private(address)),
        AddressKind::Never => Err(RefusedAddress::Never(address)),
    }
}

fn kind_of(address: IpAddr) -> AddressKind {
    match address {
        IpAddr::V4(address) => kind_of_v4(address),
        IpAddr::V6(address) => inner_v4(address).map_or_else(|| kind_of_v6(address), kind_of_v4),
    }
}

/// The IPv4 address that an IPv6 address leads to: mapped, or translated by a gateway.
fn inner_v4(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let [.., a, b, c, d] = address.octets();
    let translated = TRANSLATED.contains(&address).then(|| Ipv4Addr::new(a, b, c, d));
    address.to_ipv4_mapped().or(translated)
}

fn kind_of_v4(address: Ipv4Addr) -> AddressKind {
    match address {
        _ if NEVER_V4.iter().any(|net| net.contains(&address)) => AddressKind::Never,
        _ if PRIVATE_V4.iter().any(|net| net.contains(&address)) => AddressKind::Private,
        _ => AddressKind::Public,
    }
}

fn kind_of_v6(address: Ipv6Addr) -> AddressKind {
    match address {
        _ if NEVER_V6.iter().any(|net| net.contains(&address)) => AddressKind::Never,
        _ if PRIVATE_V6.iter().any(|net| net.contains(&address)) => AddressKind::Private,
        _ if PUBLIC_V6.contains(&address) => AddressKind::Public,
        _ => AddressKind::Never,
    }
}

/// Resolves names with the system's resolver and returns only permitted addresses.
#[derive(Clone, Copy, Debug)]
pub struct CheckedResolver {
    pub allow_private: bool,
}

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let allow_private = self.allow_private;
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let usable = usable(found, allow_private)?;
            Ok(Box::new(usable.into_iter()) as Addrs)
        })
    }
}

/// The permitted addresses; an error if there are addresses and none is permitted.
fn usable(found: Vec<SocketAddr>, allow_private: bool) -> Result<Vec<SocketAddr>, RefusedAddress> {
    let mut usable = Vec::with_capacity(found.len());
    let mut refused = None;
    for address in found {
        match check(address.ip(), allow_private) {
            Ok(()) => usable.push(address),
            Err(error) => refused = refused.or(Some(error)),
        }
    }
    match refused {
        Some(error) if usable.is_empty() => Err(error),
        _ => Ok(usable),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn kind(address: &str) -> AddressKind {
        kind_of(address.parse().unwrap())
    }

    #[test]
    fn the_internet_is_public() {
        for address in
            ["1.1.1.1", "8.8.8.8", "100.63.255.255", "172.32.0.1", "2606:4700::1111", "2a00:1450:4001::1"]
        {
            assert_eq!(kind(address), AddressKind::Public, "{address}");
        }
        assert_eq!(kind("64:ff9b::1.1.1.1"), AddressKind::Public, "an IPv4 host behind NAT64");
    }

    #[test]
    fn loopback_and_private_networks_are_private_in_every_notation() {
        for address in [
            "127.0.0.1",
            "127.8.8.8",
            "10.0.0.1",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.2.1",
            "203.0.113.80",
            "2001:db8::1",
            "::1",
            "fc00::1",
            "fdff::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::192.168.0.1",
        ] {
            assert_eq!(kind(address), AddressKind::Private, "{address}");
        }
    }

    #[test]
    fn metadata_link_local_multicast_and_reserved_addresses_are_never_fetched_from() {
        for address in [
            "169.254.169.254",
            "169.254.1.1",
            "100.100.100.200",
            "168.63.129.16",
            "192.0.0.192",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "fd00:ec2::254",
            "2001::1",
            "2002:7f00:1::",
            "::ffff:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "::7f00:1",
            "64:ff9b:1::1",
            "100::1",
        ] {
            assert_eq!(kind(address), AddressKind::Never, "{address}");
            assert!(
                check(address.parse().unwrap(), true).is_err(),
                "{address} even where private addresses are allowed"
            );
        }
    }

    #[test]
    fn only_public_addresses_of_a_mixed_dns_answer_are_used() {
        let at = |address: &str| SocketAddr::new(address.parse().unwrap(), 0);
        let mixed = vec![at("127.0.0.1"), at("1.1.1.1"), at("::ffff:10.0.0.1")];
        assert_eq!(usable(mixed.clone(), false).unwrap(), [at("1.1.1.1")]);
        assert_eq!(usable(mixed.clone(), true).unwrap(), mixed);
        let private = usable(vec![at("10.0.0.1")], false).unwrap_err();
        assert!(private.to_string().contains("allow_private_addresses"), "{private}");
    }

    proptest! {
        /// The standard library knows some of the special ranges: an address in one of them must
        /// not count as public here.
        #[test]
        fn no_address_that_the_standard_library_calls_special_is_public(bits in any::<u32>(), high in any::<u128>()) {
            let address = Ipv4Addr::from_bits(bits);
            let special = address.is_private() || address.is_loopback() || address.is_link_local() || address.is_multicast()
                || address.is_broadcast() || address.is_documentation() || address.is_unspecified();
            prop_assert!(!special || kind_of_v4(address) != AddressKind::Public, "{}", address);
            prop_assert_eq!(kind_of(IpAddr::V6(address.to_ipv6_mapped())), kind_of_v4(address));
            let address = Ipv6Addr::from_bits(high);
            let special = address.is_unique_local() || address.is_unicast_link_local() || address.is_multicast() || address.is_loopback();
            prop_assert!(!special || kind_of_v6(address) != AddressKind::Public, "{}", address);
        }
    }
}

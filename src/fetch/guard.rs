//! Which addresses a request may go to: never link-local, metadata or unspecified ones.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// A name leads only to addresses that are never asked.
#[derive(Debug)]
pub(super) struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the name resolves only to link-local, metadata or unspecified addresses")
    }
}

impl std::error::Error for Refused {}

/// Resolves as the system does, less what [`is_refused`]. The connection uses this very
/// answer, so that a name cannot change between check and use.
#[derive(Debug)]
pub(super) struct GuardedResolver;

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let kept: Vec<SocketAddr> = found.filter(|addr| !is_refused(addr.ip())).collect();
            if kept.is_empty() {
                return Err(Refused.into());
            }
            Ok(Box::new(kept.into_iter()) as Addrs)
        })
    }
}

/// True for an address that no registry or token server has, and a cloud's secrets may.
pub(super) fn is_refused(ip: IpAddr) -> bool {
    /// Metadata services outside the link-local range.
    const METADATA_V4: Ipv4Addr = Ipv4Addr::new(100, 100, 100, 200);
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(v4) => {
            v4.octets()[0] == 0
                || v4.is_link_local()
                || v4.is_broadcast()
                || v4.is_multicast()
                || v4 == METADATA_V4
        }
        IpAddr::V6(v6) => match embedded_v4(v6) {
            Some(v4) => is_refused(IpAddr::V4(v4)),
            None => {
                v6.is_unspecified()
                    || v6.is_unicast_link_local()
                    || v6.is_multicast()
                    || v6 == METADATA_V6
            }
        },
    }
}

/// The IPv4 address that an IPv6 one stands for: mapped, or NAT64.
fn embedded_v4(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, high, low] = v6.segments();
    let nat64 = [a, b, c, d, e, f] == [0x64, 0xff9b, 0, 0, 0, 0];
    let mapped = [a, b, c, d, e, f] == [0, 0, 0, 0, 0, 0xffff];
    (nat64 || mapped).then(|| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)))
}

/// The address, where a URL's host is one.
pub(super) fn literal(host: &str) -> Option<IpAddr> {
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}

/// True for a URL host that is this machine by name or by address.
pub(super) fn is_loopback(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost")
        || literal(host).is_some_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_link_local_and_unspecified_addresses_are_refused() {
        for bad in [
            "169.254.169.254",
            "0.0.0.0",
            "::",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "fd00:ec2::254",
            "100.100.100.200",
        ] {
            assert!(is_refused(bad.parse().unwrap()), "{bad}");
        }
        for good in ["127.0.0.1", "::1", "10.0.0.1", "192.168.1.1", "8.8.8.8", "fd00::1"] {
            assert!(!is_refused(good.parse().unwrap()), "{good}");
        }
    }

    #[test]
    fn loopback_is_known_by_name_and_address() {
        assert!(["localhost", "127.9.9.9", "[::1]"].into_iter().all(is_loopback));
        assert!(!["localhost.example.com", "10.0.0.1"].into_iter().any(is_loopback));
    }
}

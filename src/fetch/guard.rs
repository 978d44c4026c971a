//! Which addresses a request may go to: never link-local, metadata or unspecified ones.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use crate::domain::address;

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
/// A registry on this machine is usual.
pub(super) fn is_refused(ip: IpAddr) -> bool {
    address::rule(ip).is_some_and(|rule| rule != address::Rule::Loopback)
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

//! Which addresses a request on behalf of a caller may go to, whatever a name says.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// Why an address is not asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// This machine.
    Loopback,
    /// Valid only on one link; clouds put their secrets there.
    LinkLocal,
    /// A cloud's metadata service outside the link-local range.
    Metadata,
    /// No address at all, which many systems take for this machine.
    Unspecified,
    /// Many machines, or none.
    NotOneHost,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Loopback => "a loopback address",
            Self::LinkLocal => "a link-local address",
            Self::Metadata => "a metadata address",
            Self::Unspecified => "an unspecified address",
            Self::NotOneHost => "a multicast, broadcast or reserved address",
        })
    }
}

/// Metadata and machine services of clouds that stand outside the link-local ranges:
/// Alibaba, Azure, Oracle.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(168, 63, 129, 16),
    Ipv4Addr::new(192, 0, 0, 192),
];
/// The same in IPv6: Amazon, Google.
const METADATA_V6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

/// The rule that an address falls under; `None` for one that may be asked.
pub fn rule(ip: IpAddr) -> Option<Rule> {
    match ip {
        IpAddr::V4(v4) => rule_v4(v4),
        IpAddr::V6(v6) => rule_v6(v6),
    }
}

fn rule_v4(v4: Ipv4Addr) -> Option<Rule> {
    match v4.octets() {
        [127, ..] => Some(Rule::Loopback),
        [169, 254, ..] => Some(Rule::LinkLocal),
        [0, ..] => Some(Rule::Unspecified),
        [224..=255, ..] => Some(Rule::NotOneHost),
        _ => METADATA_V4.contains(&v4).then_some(Rule::Metadata),
    }
}

fn rule_v6(v6: Ipv6Addr) -> Option<Rule> {
    if v6.is_loopback() {
        return Some(Rule::Loopback);
    }
    if v6.is_unspecified() {
        return Some(Rule::Unspecified);
    }
    match v6.segments() {
        // fe80::/10, and fec0::/10, which was for a site once.
        [0xfe80..=0xfeff, ..] => Some(Rule::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Rule::NotOneHost),
        _ if METADATA_V6.contains(&v6) => Some(Rule::Metadata),
        [0x64, 0xff9b, 1, ..] => translated(v6),
        _ => embedded(v6).and_then(rule_v4),
    }
}

/// The IPv4 address that an IPv6 one leads to: mapped, compatible, translated (NAT64 of
/// the prefix for all), 6to4, or Teredo.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let of = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low]
        | [0, 0, 0, 0, 0xffff, 0, high, low]
        | [0x64, 0xff9b, 0, 0, 0, 0, high, low]
        | [0x2002, high, low, ..] => Some(of(high, low)),
        // Teredo keeps the client's address with all bits turned.
        [0x2001, 0, _, _, _, _, high, low] => Some(of(!high, !low)),
        _ => None,
    }
}

/// The rule for an address of 64:ff9b:1::/48, where each network translates (NAT64) as it
/// likes: prefixes of 48, 56, 64 and 96 bits (RFC 6052) put the IPv4 address elsewhere.
/// One that may lead to where nothing may be asked is refused. The last reading alone
/// decides about what no translator sends on, as the others find zeros in it.
fn translated(v6: Ipv6Addr) -> Option<Rule> {
    let o = v6.octets();
    let readings =
        [[o[6], o[7], o[9], o[10]], [o[7], o[9], o[10], o[11]], [o[9], o[10], o[11], o[12]]];
    let last = rule_v4(Ipv4Addr::new(o[12], o[13], o[14], o[15]));
    let rules = readings.into_iter().map(|octets| rule_v4(octets.into())).chain([last]);
    let inner = |rule: &Rule| matches!(rule, Rule::Loopback | Rule::LinkLocal | Rule::Metadata);
    // A shorter prefix leaves the end zero.
    let ends = o[13..] != [0; 3];
    rules.flatten().find(inner).or(last.filter(|_| ends))
}

/// Addresses with a common beginning, as in `10.0.0.0/8`; one alone is a range too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    bits: u8,
}

impl Range {
    /// Reads `address` or `address/bits`.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<u8>().ok()?)),
            None => (text, None),
        };
        let first: IpAddr = address.parse().ok()?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(most);
        (bits <= most).then_some(Self { first, bits })
    }

    /// True when the address is in it.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let differ = match (self.first, ip.to_canonical()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => return false,
        };
        differ >= u32::from(self.bits)
    }
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_refused_address_is_refused_by_its_rule() {
        for (rule_of, addresses) in [
            (Rule::Loopback, &["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"][..]),
            (
                Rule::Loopback,
                &["64:ff9b::7f00:1", "64:ff9b:1::7f00:1", "2002:7f00:1::", "::7f00:1"],
            ),
            (Rule::Loopback, &["2001:0:1:2:3:4:80ff:fffe", "::ffff:0:7f00:1"]),
            // The same by prefixes of 48, 56, 64 and 96 bits.
            (
                Rule::LinkLocal,
                &[
                    "64:ff9b:1:a9fe:a9:fe00::",
                    "64:ff9b:1:a9:fe:a9fe::",
                    "64:ff9b:1:0:a9:fea9:fe00:0",
                    "64:ff9b:1:2:3:4:a9fe:a9fe",
                ],
            ),
            (Rule::LinkLocal, &["169.254.169.254", "fe80::1", "febf::1", "fec0::1"]),
            (Rule::LinkLocal, &["::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe"]),
            (Rule::Metadata, &["100.100.100.200", "168.63.129.16", "192.0.0.192"]),
            (Rule::Metadata, &["fd00:ec2::254", "fd20:ce::254", "::ffff:100.100.100.200"]),
            (Rule::Unspecified, &["0.0.0.0", "0.1.2.3", "::", "::ffff:0.0.0.0", "64:ff9b::"]),
            (Rule::NotOneHost, &["224.0.0.1", "255.255.255.255", "240.0.0.1", "ff02::1"]),
        ] {
            for address in addresses {
                assert_eq!(rule(address.parse().unwrap()), Some(rule_of), "{address}");
            }
        }
        for good in [
            "10.0.0.1",
            "192.168.1.1",
            "8.8.8.8",
            "fd00::1",
            "2606:4700::1",
            "100.64.0.1",
            "64:ff9b::808:808",
            "64:ff9b:1:808:8:800::",
            "64:ff9b:1::808:808",
        ] {
            assert_eq!(rule(good.parse().unwrap()), None, "{good}");
        }
    }

    #[test]
    fn a_range_holds_what_begins_like_it() {
        let holds = |range: &str, ip: &str| {
            Range::parse(range).expect("a range").contains(ip.parse().expect("an address"))
        };
        assert!(
            holds("127.0.0.0/8", "127.1.2.3")
                && holds("::1", "::1")
                && holds("0.0.0.0/0", "9.9.9.9")
        );
        assert!(holds("127.0.0.0/8", "::ffff:127.0.0.1"));
        assert!(!holds("127.0.0.0/8", "128.0.0.1") && !holds("10.0.0.1", "10.0.0.2"));
        assert!(!holds("0.0.0.0/0", "::1"));
        for wrong in ["", "localhost", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(Range::parse(wrong), None, "{wrong}");
        }
    }
}

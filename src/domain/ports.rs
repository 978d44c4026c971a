//! Ports: what is asked for, what is published, and which host port to choose.

use std::{collections::HashSet, fmt, net::IpAddr};

/// Transport protocol of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// The engine's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }

    /// From the word, lower case.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Tcp, Self::Udp, Self::Sctp].into_iter().find(|p| p.word() == word)
    }
}

/// A port that a request asks for, with defaults resolved.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PortSpec {
    /// Port in the container.
    pub internal: u16,
    /// Port on the host; 0 lets the service choose.
    pub host: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address on the host.
    pub address: IpAddr,
    /// The caller named the protocol.
    pub protocol_set: bool,
    /// The caller named the address.
    pub address_set: bool,
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}/{}", self.address, self.host, self.internal, self.protocol.word())
    }
}

/// A port as it is published.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedPort {
    /// Port in the container.
    pub internal: u16,
    /// Port on the host.
    pub host: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address on the host; absent where the caller did not name it.
    pub address: Option<IpAddr>,
    /// The caller named the protocol.
    pub protocol_set: bool,
}

/// A range of host ports, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
}

impl PortRange {
    /// The first port that is not taken, beginning at `start` and going round.
    /// `None` when all are taken.
    pub fn choose(self, start: u16, taken: &HashSet<(Protocol, u16)>, p: Protocol) -> Option<u16> {
        let size = u32::from(self.last) - u32::from(self.first) + 1;
        let offset = u32::from(start.clamp(self.first, self.last) - self.first);
        (0..size)
            .filter_map(|step| u16::try_from(u32::from(self.first) + (offset + step) % size).ok())
            .find(|port| !taken.contains(&(p, *port)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: PortRange = PortRange { first: 100, last: 102 };

    #[test]
    fn a_taken_port_is_passed_over_and_the_range_goes_round() {
        let taken = HashSet::from([(Protocol::Tcp, 102), (Protocol::Udp, 100)]);
        assert_eq!(RANGE.choose(102, &taken, Protocol::Tcp), Some(100));
        assert_eq!(RANGE.choose(102, &taken, Protocol::Udp), Some(102));
    }

    #[test]
    fn a_full_range_gives_nothing() {
        let taken = (100..=102).map(|port| (Protocol::Tcp, port)).collect();
        assert_eq!(RANGE.choose(100, &taken, Protocol::Tcp), None);
    }

    #[test]
    fn a_start_outside_the_range_is_brought_inside() {
        assert_eq!(RANGE.choose(9, &HashSet::new(), Protocol::Tcp), Some(100));
        assert_eq!(RANGE.choose(900, &HashSet::new(), Protocol::Tcp), Some(102));
    }
}

//! Host ports: chosen from the range, reserved while they are given out.

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Mutex,
};

use super::App;
use crate::domain::{
    Error, Kind, Result,
    container::Container,
    ports::{PortSpec, Protocol},
};

type Port = (Protocol, u16);

/// Ports that a run in progress has chosen but the engine does not hold yet.
#[derive(Debug, Default)]
pub(super) struct Reserved(Mutex<HashSet<Port>>);

/// A choice of ports; gives its reservations back when dropped.
#[derive(Debug)]
pub(super) struct Chosen<'a> {
    reserved: &'a Reserved,
    mine: Vec<Port>,
    /// Host port of each port of the spec, in its order.
    pub(super) host_ports: Vec<u16>,
}

impl Drop for Chosen<'_> {
    fn drop(&mut self) {
        let mut reserved = self.reserved.lock();
        for port in &self.mine {
            reserved.remove(port);
        }
    }
}

impl Reserved {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashSet<Port>> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl App {
    /// A host port for each port of the spec: the one asked for, else the one
    /// that the predecessor has, else a free one of the range.
    ///
    /// FAILED_PRECONDITION when a port that was asked for is taken,
    /// RESOURCE_EXHAUSTED when the range is used up. `avoid` are ports that
    /// turned out to be taken.
    pub(super) fn choose_ports(
        &self,
        ports: &[PortSpec],
        predecessor: Option<&Container>,
        avoid: &HashSet<u16>,
    ) -> Result<Chosen<'_>> {
        let mut reserved = self.ports.lock();
        let own = predecessor.map_or("", |container| container.id.as_str());
        let mut taken: HashSet<Port> = reserved.clone();
        for container in self.view.all().iter().filter(|container| container.id != own) {
            // A stopped container of ours keeps its ports; a foreign one does not.
            if container.is_running() || self.is_ours(container) {
                taken.extend(container.ports.iter().map(|port| (port.protocol, port.host)));
            }
        }
        for (at, port) in ports.iter().enumerate().filter(|(_, port)| port.host != 0) {
            let held = |container: &Container| {
                container.ports.iter().any(|have| {
                    have.protocol == port.protocol
                        && have.host == port.host
                        && overlap(have.address, port.address)
                })
            };
            let holder =
                self.view.all().into_iter().find(|container| {
                    container.id != own && container.is_running() && held(container)
                });
            if let Some(holder) = holder {
                return Err(conflict(at, port.host, &format!("container \"{}\"", holder.name())));
            }
        }

        let mut choice = Vec::with_capacity(ports.len());
        let mut mine = Vec::new();
        for port in ports {
            let had = predecessor.and_then(|container| {
                container
                    .ports
                    .iter()
                    .find(|have| have.internal == port.internal && have.protocol == port.protocol)
            });
            let host = match (port.host, had) {
                (0, Some(had)) if !avoid.contains(&had.host) => had.host,
                (0, _) => self.free_port(port, &taken, avoid)?,
                (asked, _) => asked,
            };
            if taken.insert((port.protocol, host)) && reserved.insert((port.protocol, host)) {
                mine.push((port.protocol, host));
            }
            choice.push(host);
        }
        Ok(Chosen { reserved: &self.ports, mine, host_ports: choice })
    }

    fn free_port(
        &self,
        port: &PortSpec,
        taken: &HashSet<Port>,
        avoid: &HashSet<u16>,
    ) -> Result<u16> {
        let range = self.settings.port_range;
        let mut taken = taken.clone();
        taken.extend(avoid.iter().map(|avoid| (port.protocol, *avoid)));
        // A start that differs from node to node and call to call keeps two
        // services on one engine from racing for the same port.
        let mut seed = [0; 2];
        let _ = getrandom::fill(&mut seed);
        let span = u32::from(range.last - range.first) + 1;
        let offset = u32::from(u16::from_le_bytes(seed)) % span;
        let start = range.first + u16::try_from(offset).unwrap_or(0);
        while let Some(candidate) = range.choose(start, &taken, port.protocol) {
            if self.engine.remote_host().is_some() || is_free(port, candidate) {
                return Ok(candidate);
            }
            taken.insert((port.protocol, candidate));
        }
        Err(Error::new(
            Kind::ResourceExhausted,
            "PORT_RANGE_EXHAUSTED",
            format!(
                "every host port from {} to {} is taken; remove containers, or widen port_range",
                range.first, range.last
            ),
        ))
    }

    /// The error for a port that turned out to be taken, with its holder.
    pub(super) fn port_conflict(&self, ports: &[PortSpec], host: u16, own: &str) -> Error {
        let at = ports.iter().position(|port| port.host == host).unwrap_or(0);
        let protocol = ports.get(at).map_or(Protocol::Tcp, |port| port.protocol);
        let container = self.view.all().into_iter().find(|container| {
            let has = |port: &crate::domain::ports::PublishedPort| {
                port.host == host && port.protocol == protocol
            };
            container.id != own && container.is_running() && container.ports.iter().any(has)
        });
        let holder = match container {
            Some(container) => format!("container \"{}\"", container.name()),
            None => process_on(host, protocol)
                .unwrap_or_else(|| "another process on the host".to_owned()),
        };
        conflict(at, host, &holder)
    }
}

fn conflict(at: usize, host: u16, holder: &str) -> Error {
    Error::precondition(
        crate::engine::PORT_IN_USE,
        format!(
            "ports[{at}].host: host port {host} is held by {holder}; stop that, take another port, or 0 to have one chosen"
        ),
    )
    .with("port", host.to_string())
    .with("holder", holder)
}

fn overlap(have: Option<IpAddr>, asked: IpAddr) -> bool {
    have.is_none_or(|have| have == asked || asked.is_unspecified())
}

/// A hint only: another process may take it before the engine does, which is
/// why a start that fails for it is tried again with another port.
fn is_free(port: &PortSpec, host: u16) -> bool {
    let address = SocketAddr::new(port.address, host);
    match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).is_ok(),
        Protocol::Udp => UdpSocket::bind(address).is_ok(),
        Protocol::Sctp => true,
    }
}

/// The process of this host that listens on a port, as far as /proc tells.
fn process_on(host: u16, protocol: Protocol) -> Option<String> {
    let inodes: HashSet<u64> = match protocol {
        Protocol::Tcp => [procfs::net::tcp(), procfs::net::tcp6()]
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.local_address.port() == host)
            .filter(|entry| entry.state == procfs::net::TcpState::Listen)
            .map(|entry| entry.inode)
            .collect(),
        Protocol::Udp => [procfs::net::udp(), procfs::net::udp6()]
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| entry.local_address.port() == host)
            .map(|entry| entry.inode)
            .collect(),
        Protocol::Sctp => HashSet::new(),
    };
    let process = procfs::process::all_processes().ok()?.flatten().find(|process| {
        process.fd().is_ok_and(|fds| {
            fds.flatten().any(|fd| {
                matches!(fd.target, procfs::process::FDTarget::Socket(inode) if inodes.contains(&inode))
            })
        })
    })?;
    let name = process.stat().map(|stat| stat.comm).unwrap_or_default();
    Some(format!("process {} \"{name}\"", process.pid()))
}

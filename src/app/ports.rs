//! Host ports: chosen from the range, reserved while they are given out.

use std::{
    collections::{BTreeSet, HashSet},
    net::{IpAddr, SocketAddr, TcpListener, UdpSocket},
    sync::Mutex,
};

use super::{App, run::does_not_start};
use crate::{
    domain::{
        Error, Kind, Result,
        container::Container,
        ports::{PortSpec, Protocol},
        spec::RunSpec,
    },
    engine::{PORT_IN_USE, conflicting_port},
};

/// How often ports are chosen when other processes take them.
const TRIES: u32 = 5;

/// A holder that cannot be found out.
const SOMEBODY: &str = "another process on the host";

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

/// Ports that others took before the engine did, and how often that happened.
#[derive(Debug, Default)]
pub(super) struct Lost {
    ports: BTreeSet<u16>,
    times: u32,
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
    /// RESOURCE_EXHAUSTED when the range is used up. `lost` are ports that
    /// turned out to be taken.
    pub(super) fn choose_ports(
        &self,
        ports: &[PortSpec],
        predecessor: Option<&Container>,
        lost: &Lost,
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

        // What one port keeps is not for another to choose.
        let kept = predecessor.into_iter().flat_map(|container| &container.ports);
        taken.extend(kept.map(|port| (port.protocol, port.host)));
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
                (0, Some(had)) if !lost.ports.contains(&had.host) => had.host,
                (0, _) => self.free_port(port, &taken, lost)?,
                (asked, _) => asked,
            };
            taken.insert((port.protocol, host));
            if reserved.insert((port.protocol, host)) {
                mine.push((port.protocol, host));
            }
            choice.push(host);
        }
        Ok(Chosen { reserved: &self.ports, mine, host_ports: choice })
    }

    fn free_port(&self, port: &PortSpec, taken: &HashSet<Port>, lost: &Lost) -> Result<u16> {
        let range = self.settings.port_range;
        let mut taken = taken.clone();
        taken.extend(lost.ports.iter().map(|lost| (port.protocol, *lost)));
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

    /// After a start that failed: `Ok` when other ports may help, the error for
    /// the caller otherwise.
    pub(super) fn try_again(
        &self,
        spec: &RunSpec,
        error: &Error,
        host_ports: &[u16],
        lost: &mut Lost,
        own: &str,
    ) -> Result<()> {
        if error.reason() != PORT_IN_USE {
            return Err(does_not_start(&spec.engine_name(), error));
        }
        let named = conflicting_port(error.message());
        // A port that was asked for cannot be another.
        let asked = match named {
            Some(port) => spec.ports.iter().position(|asked| asked.host == port),
            None if spec.ports.iter().any(|asked| asked.host == 0) => None,
            None => spec.ports.iter().position(|asked| !is_free(asked, asked.host)).or(Some(0)),
        };
        if let Some(at) = asked
            && let Some(port) = spec.ports.get(at)
        {
            return Err(conflict(at, port.host, &self.holder(port.host, port.protocol, own)));
        }
        lost.times += 1;
        match named {
            Some(port) => lost.ports.extend([port]),
            None => lost.ports.extend(host_ports),
        }
        if lost.times < TRIES { Ok(()) } else { Err(self.all_lost(spec, host_ports, lost, own)) }
    }

    /// The error when one chosen port after the other was taken.
    fn all_lost(&self, spec: &RunSpec, host_ports: &[u16], lost: &Lost, own: &str) -> Error {
        let last = spec.ports.iter().zip(host_ports).find(|(_, host)| lost.ports.contains(host));
        let holder = last.map(|(port, host)| self.holder(*host, port.protocol, own));
        let holder = holder.unwrap_or_else(|| SOMEBODY.to_owned());
        let ports: Vec<String> = lost.ports.iter().map(u16::to_string).collect();
        let ports = ports.join(", ");
        Error::precondition(
            PORT_IN_USE,
            format!(
                "the host ports {ports} were chosen, and each was taken before the container \
                 \"{}\" could start, the last by {holder}; try again, or set port_range to ports \
                 that nobody else uses",
                spec.engine_name()
            ),
        )
        .with("ports", ports)
        .with("holder", holder)
    }

    /// Who holds a host port, apart from the container `own`.
    fn holder(&self, host: u16, protocol: Protocol, own: &str) -> String {
        let container = self.view.all().into_iter().find(|container| {
            let has = |port: &crate::domain::ports::PublishedPort| {
                port.host == host && port.protocol == protocol
            };
            container.id != own && container.is_running() && container.ports.iter().any(has)
        });
        match container {
            Some(container) => format!("container \"{}\"", container.name()),
            None => process_on(host, protocol).unwrap_or_else(|| SOMEBODY.to_owned()),
        }
    }
}

fn conflict(at: usize, host: u16, holder: &str) -> Error {
    Error::precondition(
        PORT_IN_USE,
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

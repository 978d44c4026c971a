//! Errors that devices report by events (XIDs), one set of events a device.

use jiff::Timestamp;
use nvml_wrapper::{EventSet, Nvml, bitmasks::event::EventTypes, enums::event::XidError};

use crate::domain::gpu::{Device, xid::Xid};

/// Most events of one device that are taken at once.
const AT_ONCE: usize = 64;

/// The sets, as long as the library is loaded.
#[derive(Default)]
pub(super) struct Events<'nvml>(Vec<(String, Option<EventSet<'nvml>>)>);

impl<'nvml> Events<'nvml> {
    /// Listens to devices that are new. One that has no such events is not asked again.
    pub(super) fn listen(&mut self, nvml: &'nvml Nvml, devices: &[Device]) {
        self.0.retain(|(uuid, _)| devices.iter().any(|device| device.uuid == *uuid));
        for device in devices.iter().filter(|device| device.lost.is_none()) {
            if self.0.iter().all(|(uuid, _)| *uuid != device.uuid) {
                let set = nvml.device_by_index(device.index).ok().and_then(|handle| {
                    let set = nvml.create_event_set().ok()?;
                    handle.register_events(EventTypes::CRITICAL_XID_ERROR, set).ok()
                });
                self.0.push((device.uuid.clone(), set));
            }
        }
    }

    /// What was reported since the last time; never waits.
    pub(super) fn poll(&self) -> Vec<(String, Xid)> {
        let mut found = Vec::new();
        for (uuid, set) in &self.0 {
            let Some(set) = set else { continue };
            for _ in 0..AT_ONCE {
                let Ok(event) = set.wait(0) else { break };
                let code = match event.event_data {
                    Some(XidError::Value(code)) => code,
                    Some(XidError::Unknown) | None => continue,
                };
                found.push((uuid.clone(), Xid { code, at: Timestamp::now() }));
            }
        }
        found
    }
}

//! NVIDIA's library: loaded when it can be, and again when it went wrong.

use std::{collections::BTreeMap, ffi::OsStr};

use nvml_wrapper::{Nvml, error::NvmlError};

use crate::domain::gpu::xid::Xid;

/// Errors of one device that are remembered.
const MOST_XIDS: usize = 16;

/// Where the library is, and what devices said of themselves when they could.
#[derive(Debug)]
pub(super) struct Library {
    path: String,
    /// UUID and name by index: one that fell off the bus tells neither.
    pub(super) known: BTreeMap<u32, (String, String)>,
    /// The last errors that devices reported, by UUID.
    pub(super) xids: BTreeMap<String, Vec<Xid>>,
}

impl Library {
    pub(super) fn new(path: String) -> Self {
        Self { path, known: BTreeMap::new(), xids: BTreeMap::new() }
    }

    /// The library, loaded now; else why there is no GPU, in words that say what to do.
    pub(super) fn load(&self) -> Result<Nvml, String> {
        let path = OsStr::new(&self.path);
        Nvml::builder().lib_path(path).init().map_err(|error| self.explained(&error))
    }

    /// Notes an error of a device.
    pub(super) fn note(&mut self, uuid: &str, xid: Xid) {
        let all = self.xids.entry(uuid.to_owned()).or_default();
        all.push(xid);
        let over = all.len().saturating_sub(MOST_XIDS);
        all.drain(..over);
    }

    /// Why NVML is of no use, and what to do.
    pub(super) fn explained(&self, error: &NvmlError) -> String {
        let path = &self.path;
        match error {
            NvmlError::LibloadingError(_) => format!(
                "NVIDIA's library {path} cannot be loaded; install the NVIDIA driver, or set \
                 nvml_library to where it is"
            ),
            NvmlError::FailedToLoadSymbol(_) | NvmlError::FunctionNotFound => format!(
                "{path} is not NVIDIA's management library, or a very old one; install a newer driver"
            ),
            NvmlError::DriverNotLoaded => {
                "the NVIDIA driver is not loaded; load its kernel module, as by `modprobe nvidia`"
                    .to_owned()
            }
            NvmlError::LibRmVersionMismatch => {
                "the NVIDIA library and the driver in the kernel have different versions, as after \
                 an upgrade; restart the machine, or load the new kernel module"
                    .to_owned()
            }
            NvmlError::NoPermission => {
                "this user may not use the NVIDIA driver; give it access to /dev/nvidiactl"
                    .to_owned()
            }
            other => format!("NVIDIA's library {path} answers: {other}"),
        }
    }
}

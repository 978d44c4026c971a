//! NVIDIA's library: loaded when it can be, and again when it went wrong.

use std::{collections::BTreeMap, ffi::OsStr};

use nvml_wrapper::{Nvml, error::NvmlError};

/// The library, loaded or not, and what devices said of themselves when they could.
#[derive(Debug)]
pub(super) struct Library {
    path: String,
    loaded: Option<Nvml>,
    /// UUID and name by index: one that fell off the bus tells neither.
    pub(super) known: BTreeMap<u32, (String, String)>,
}

impl Library {
    pub(super) fn new(path: String) -> Self {
        Self { path, loaded: None, known: BTreeMap::new() }
    }

    /// The library, loaded now if it was not; else why there is no GPU, in words that
    /// say what to do.
    pub(super) fn load(&mut self) -> Result<&Nvml, String> {
        // The driver may have been installed since the last try.
        let loaded = match self.loaded.take() {
            Some(loaded) => loaded,
            None => Nvml::builder()
                .lib_path(OsStr::new(&self.path))
                .init()
                .map_err(|error| self.explained(&error))?,
        };
        Ok(self.loaded.insert(loaded))
    }

    /// Begins anew with the next look: the driver was exchanged, or is gone.
    pub(super) fn unload(&mut self) {
        self.loaded = None;
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

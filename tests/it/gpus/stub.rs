//! A stand-in for NVIDIA's library, built from `nvml.c` and told what to say by a file.
//! The service loads it as it loads the real one.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;

/// One library of its own for a test.
pub struct Stub {
    dir: TempDir,
}

impl Stub {
    /// With a driver and these lines about its devices.
    pub fn new(lines: &str) -> Self {
        let stub = Self { dir: tempfile::tempdir().expect("a directory") };
        std::fs::copy(built(), stub.path()).expect("a copy");
        stub.says(lines);
        stub
    }

    /// What it says from now on.
    pub fn says(&self, lines: &str) {
        let text = format!("driver version=550.54.15 cuda=12040\n{lines}\n");
        // By rename, so that it is never read half written.
        let next = self.dir.path().join("next");
        std::fs::write(&next, text).expect("written");
        std::fs::rename(next, self.dir.path().join("libnvml.so.conf")).expect("renamed");
    }

    /// How often it was asked for its devices.
    pub fn looks(&self) -> u64 {
        let told = std::fs::metadata(self.dir.path().join("libnvml.so.looks"));
        told.map_or(0, |told| told.len())
    }

    /// Path of the library.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("libnvml.so")
    }

    /// The same as a setting.
    pub fn setting(&self) -> String {
        self.path().to_string_lossy().into_owned()
    }
}

/// Lines about so many devices of 16 GiB, of which the driver keeps 512 MiB.
pub fn devices(count: usize) -> String {
    (0..count).map(|index| device(index, 0, "") + "\n").collect()
}

/// A line about one of them, with this much used memory in MiB.
pub fn device(index: usize, used_mb: u64, more: &str) -> String {
    let used = used_mb << 20;
    format!(
        "device uuid={} name=NVIDIA_T4 total={} reserved={} used={used} busy=40 temp=50 \
         power=61500 limit=70000 ecc=1 errors=0 {more}",
        uuid(index),
        16_u64 << 30,
        512_u64 << 20,
    )
}

/// The UUID of one of them.
pub fn uuid(index: usize) -> String {
    format!("GPU-00000000-0000-0000-0000-{index:012}")
}

/// Compiled once for a test process.
fn built() -> &'static Path {
    static BUILT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BUILT.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("libnvml.so");
        let made = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
            .arg(&path)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/gpus/nvml.c"))
            .output()
            .expect("no cc to build the stub of NVIDIA's library: run `make tools`");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        (dir, path)
    });
    path
}

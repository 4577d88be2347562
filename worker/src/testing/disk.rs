//! File systems of a test's own, which take root.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A file system mounted at a directory, until this is dropped.
pub(crate) struct Disk(PathBuf);

impl Disk {
    /// One in memory with these options (`tmpfs(5)`): `size=…,nr_inodes=…`.
    pub(crate) fn small(at: &Path, options: &str) -> Self {
        let mount = ["-t", "tmpfs", "-o", options, "test"];
        Self::mount(at, mount.map(AsRef::as_ref).as_slice())
    }

    /// An XFS, which shares blocks between files, in a file of this name.
    pub(crate) fn sharing(at: &Path, image: &Path) -> Self {
        let file = std::fs::File::create(image).unwrap();
        // The smallest that mkfs.xfs makes has 300 MiB.
        file.set_len(512 << 20).unwrap();
        run(Command::new("mkfs.xfs").arg("-q").arg(image));
        let mount = [Path::new("-o"), Path::new("loop"), image];
        Self::mount(at, mount.map(AsRef::as_ref).as_slice())
    }

    fn mount(at: &Path, arguments: &[&std::ffi::OsStr]) -> Self {
        run(Command::new("mount").args(arguments).arg(at));
        Self(at.into())
    }

    /// Bytes that may yet be written.
    pub(crate) fn free(&self) -> u64 {
        let found = nix::sys::statvfs::statvfs(&self.0).unwrap();
        found.blocks_available() * found.fragment_size()
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Lazily: what is open is closed in a moment.
        run(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// Whether this test may mount; says so if not.
pub(crate) fn may_mount(name: &str) -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        println!("SKIP {name}: only root can mount");
    }
    root
}

/// Whether this test can make and mount a [`Disk::sharing`]; says so if not. What
/// it needs is installed where that is allowed.
pub(crate) fn may_share(name: &str) -> bool {
    if !may_mount(name) {
        return false;
    }
    let is_there = || Path::new("/usr/sbin/mkfs.xfs").exists();
    if !is_there() && std::env::var("HAYLOFT_INSTALL").is_ok_and(|value| value == "1") {
        let tests = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("tests");
        run(&mut Command::new(tests.join("install-clients")));
    }
    if !is_there() {
        println!("SKIP {name}: needs mkfs.xfs");
    }
    is_there()
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {complaint}");
}

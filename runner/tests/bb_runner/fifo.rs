//! Hearing from a command.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::libc::O_NONBLOCK;
use nix::sys::stat::Mode;

/// A fifo in an input root. A command opens it for writing and keeps it open.
pub struct Fifo {
    path: PathBuf,
}

/// The test's end of a fifo that a command has open.
pub struct Alive {
    reader: File,
}

impl Fifo {
    pub fn new(path: &Path) -> Self {
        nix::unistd::mkfifo(path, Mode::empty()).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666)).unwrap();
        Self { path: path.into() }
    }

    /// Returns when a command has opened the fifo and written a line.
    pub async fn started(&self) -> Alive {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let mut reader = File::open(path).unwrap();
            let mut byte = [0];
            while byte != *b"\n" {
                reader.read_exact(&mut byte).unwrap();
            }
            Alive { reader }
        })
        .await
        .unwrap()
    }

    /// Has a command that reads the fifo continue.
    pub async fn release(&self) {
        let path = self.path.clone();
        tokio::task::spawn_blocking(move || {
            let mut writer = OpenOptions::new().write(true).open(path).unwrap();
            writer.write_all(b"go\n").unwrap();
        })
        .await
        .unwrap();
    }

    /// Whether nobody has the fifo open for writing, now.
    pub fn is_abandoned(&self) -> bool {
        let mut reader = OpenOptions::new()
            .read(true)
            .custom_flags(O_NONBLOCK)
            .open(&self.path)
            .unwrap();
        match reader.read(&mut [0]) {
            Ok(length) => length == 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }
}

impl Alive {
    /// Returns when every process that had the fifo open is dead.
    pub async fn ended(mut self) {
        tokio::task::spawn_blocking(move || {
            self.reader.read_to_end(&mut Vec::new()).unwrap();
        })
        .await
        .unwrap();
    }
}

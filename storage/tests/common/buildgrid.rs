//! BuildGrid's server as a foreign storage: on its disk, without the database that its
//! scheduler would need.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use daemon::Address;

/// What it is made of.
const PACKAGES: [&str; 3] = ["buildgrid==0.4.4", "sqlalchemy<2.1", "psycopg2-binary"];

const START: &str = "from buildgrid.server.app import cli; cli()";

/// Where its packages are; none where they may not be installed. With
/// `HAYLOFT_INSTALL=1` they are fetched from PyPI, once.
pub fn packages() -> Option<&'static Path> {
    static PACKAGES: LazyLock<Option<PathBuf>> = LazyLock::new(|| {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("buildgrid");
        if !folder.is_dir() && std::env::var_os("HAYLOFT_INSTALL").is_some() {
            install(&folder);
        }
        folder.is_dir().then_some(folder)
    });
    PACKAGES.as_deref()
}

fn install(folder: &Path) {
    // Half of them is none.
    let aside = folder.with_extension("new");
    let _ = std::fs::remove_dir_all(&aside);
    let status = Command::new("python3")
        .args(["-m", "pip", "install", "--quiet", "--target"])
        .arg(&aside)
        .args(PACKAGES)
        .status();
    assert!(status.unwrap().success(), "pip install {PACKAGES:?}");
    std::fs::rename(aside, folder).unwrap();
}

/// One that runs, with a store of its own; dead when dropped.
pub struct BuildGrid {
    child: Child,
    pub address: Address,
}

impl BuildGrid {
    pub fn start(packages: &Path, folder: &Path) -> Self {
        let socket = folder.join("socket");
        let store = folder.join("store");
        std::fs::create_dir(&store).unwrap();
        let config = folder.join("config.yml");
        let text = format!(
            "server:
  - !channel
    address: unix://{socket}
    insecure-mode: true
description: storage alone
instances:
  - name: ''
    storages:
      - !disk-storage &blobs
        path: {store}
    caches:
      - !lru-action-cache &results
        storage: *blobs
        max-cached-refs: 1000
        allow-updates: true
    services:
      - !action-cache
        cache: *results
      - !cas
        storage: *blobs
      - !bytestream
        storage: *blobs
thread-pool-size: 40
",
            socket = socket.display(),
            store = store.display(),
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("python3")
            .args(["-c", START, "server", "start"])
            .arg(config)
            .env("PYTHONPATH", packages)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while !socket.exists() {
            let ended = child.try_wait().unwrap();
            assert!(ended.is_none(), "BuildGrid ended: {ended:?}");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        Self {
            child,
            address: Address::Unix(socket),
        }
    }
}

impl Drop for BuildGrid {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

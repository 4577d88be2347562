//! A farm to measure: `hayloft up` as a process of its own.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use hayloft::client::Client;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use proto::InstanceName;
use tempfile::TempDir;

/// Whether this process was started as `hayloft up` or one of its roles.
pub fn is_role() -> bool {
    std::env::args().nth(1).is_some_and(|word| {
        ["up", "storage", "scheduler", "worker", "runner"].contains(&word.as_str())
    })
}

/// A running farm.
pub struct Farm {
    process: Child,
    endpoint: String,
    _folder: TempDir,
}

impl Farm {
    /// Starts a farm with this many slots and waits until it takes work.
    pub fn start(slots: u16) -> Result<Self> {
        Self::start_with(slots, &[])
    }

    /// As [`Self::start`], with further arguments of `hayloft up`.
    pub fn start_with(slots: u16, arguments: &[&str]) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix("hayloft-bench-")
            .tempdir()?;
        let mut process = Command::new(std::env::current_exe()?)
            .args(["up", "--listen", "127.0.0.1:0", "--slots"])
            .arg(slots.to_string())
            .arg("--dir")
            .arg(folder.path())
            .args(arguments)
            .env("HAYLOFT_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().context("no output")?;
        let endpoint = BufReader::new(output)
            .lines()
            .map_while(Result::ok)
            .find_map(|line| line.split("actions at ").nth(1).map(ToOwned::to_owned))
            .context("the farm did not start")?;
        Ok(Self {
            process,
            endpoint,
            _folder: folder,
        })
    }

    /// Its process.
    pub fn id(&self) -> u64 {
        self.process.id().into()
    }

    /// A client with a connection of its own.
    pub fn client(&self) -> Result<Client> {
        Client::connect(&self.endpoint.parse()?, InstanceName::empty())
    }
}

impl Drop for Farm {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.process.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGINT);
        }
        let _ = self.process.wait();
    }
}

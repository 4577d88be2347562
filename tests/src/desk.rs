//! Whoever calls `hayloft` from a shell.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use crate::user::As;

/// A person's place: a home, a folder for temporary files, a working directory.
pub struct Desk {
    who: As,
    /// The person's folder, with `tmp` and `work` in it.
    pub folder: TempDir,
}

impl Desk {
    /// The desk of a user.
    ///
    /// # Panics
    /// It cannot be made.
    #[must_use]
    pub fn of(who: As) -> Self {
        let folder = who.folder();
        for name in ["tmp", "work"] {
            let path = folder.path().join(name);
            fs::create_dir(&path).expect("a folder");
            who.own(&path);
        }
        Self { who, folder }
    }

    /// The working directory.
    #[must_use]
    pub fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// `hayloft` with these arguments.
    #[must_use]
    pub fn command<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Command {
        let mut command = self.who.command("hayloft-under-test", self.folder.path());
        command
            .args(words)
            .current_dir(self.work())
            .env("TMPDIR", self.folder.path().join("tmp"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Runs `hayloft` with these arguments.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn run<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Output {
        self.command(words).output().expect("hayloft runs")
    }

    /// Runs `hayloft` and takes what it prints as JSON.
    ///
    /// # Panics
    /// It fails, or prints something else.
    pub fn told<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> Value {
        let output = self.run(words);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    /// Runs `hayloft` and takes what it prints as text.
    ///
    /// # Panics
    /// It fails.
    pub fn printed<W: AsRef<OsStr>>(&self, words: impl IntoIterator<Item = W>) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a shell script by `hayloft run` with these options.
    pub fn script(&self, options: &[&str], script: &str) -> Output {
        self.run([&["run"], options, &["--", "/bin/sh", "-c", script]].concat())
    }

    /// Checks that nothing is left in the folder for temporary files.
    ///
    /// # Panics
    /// Something is.
    pub fn leave(self) {
        let left: Vec<_> = fs::read_dir(self.folder.path().join("tmp"))
            .expect("the folder")
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
}

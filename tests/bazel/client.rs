//! Bazel, as several people have it who work on copies of one workspace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;
use tests::farm::{Farm, Setup};
use tests::processes::Process;
use tests::ran::Ran;
use tests::seal::Seal;
use tests::skip;
use tests::user::As;
use tests::wait::wait_for_none;

const BAZEL: &str = "/usr/bin/bazel-4";
/// Bazel 2.1.0.
const OLD_BAZEL: &str = "/opt/hayloft-clients/bazel-2.1.0/bazel";
const NEEDED: [&str; 4] = [
    BAZEL,
    "/usr/share/bazel/tools/platforms/WORKSPACE",
    "/usr/bin/g++",
    "/usr/bin/zip",
];

/// Whether there is a Bazel, after it was installed where that is allowed.
pub fn has_bazel(test: &str) -> bool {
    skip::has(test, &NEEDED)
}

/// Whether there is the older Bazel, after it was installed where that is allowed.
pub fn has_old_bazel(test: &str) -> bool {
    skip::has(test, &[OLD_BAZEL, NEEDED[1], "/usr/bin/zip"])
}

/// A farm of four slots, root's where that can be.
pub fn setup() -> Setup {
    Setup::new(As::possible()[0]).slots(4)
}

/// Checks that nothing is left of any action, and stops the farm.
pub fn leave(farm: Farm) {
    farm.wait_until_idle();
    Seal::record(&farm.cache()).check();
    farm.stop();
}

/// A copy of a workspace, and the clients that build in it.
pub struct Workspace {
    folder: TempDir,
    endpoint: String,
    /// Of the workspace, which is its folder's too.
    name: &'static str,
    bazel: &'static str,
}

impl Workspace {
    /// A copy of that with C++ in it.
    pub fn harvest(farm: &Farm) -> Self {
        Self::copy(farm, "harvest")
    }

    /// A copy of that with what Bazel can ask of a farm.
    pub fn features(farm: &Farm) -> Self {
        Self::copy(farm, "features")
    }

    fn copy(farm: &Farm, name: &'static str) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("hayloft-bazel-")
            .tempdir()
            .expect("a folder");
        let status = Command::new("cp")
            .arg("-r")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("bazel"))
            .arg(folder.path().join("copy"))
            .status();
        assert!(status.expect("cp runs").success());
        Self {
            folder,
            endpoint: farm.endpoint().into(),
            name,
            bazel: BAZEL,
        }
    }

    /// Whose clients have the older Bazel.
    pub fn with_old_bazel(mut self) -> Self {
        self.bazel = OLD_BAZEL;
        self
    }

    /// A file of the sources.
    pub fn file(&self, path: &str) -> PathBuf {
        self.folder.path().join("copy").join(self.name).join(path)
    }

    /// Bazel as one of several clients, each with a home and outputs of its own, with
    /// the farm as executor.
    pub fn bazel(&self, client: &str, words: &[&str]) -> Ran {
        Ran::of(&mut self.remotely(client, words))
    }

    /// As [`Self::bazel`], under way.
    pub fn start(&self, client: &str, words: &[&str]) -> Child {
        let mut command = self.remotely(client, words);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("Bazel runs")
    }

    /// Bazel with the farm for a cache alone.
    pub fn bazel_with_cache(&self, client: &str, words: &[&str]) -> Ran {
        let farm = format!("--remote_cache={}", self.endpoint);
        Ran::of(&mut self.command(client, words, &[&farm]))
    }

    fn remotely(&self, client: &str, words: &[&str]) -> Command {
        let farm = format!("--remote_executor={}", self.endpoint);
        self.command(client, words, &["--config=remote", &farm])
    }

    /// The farm's options come first, so that others can overrule them.
    fn command(&self, client: &str, words: &[&str], farm: &[&str]) -> Command {
        let (word, words) = words.split_first().expect("a command");
        let client = self.folder.path().join(client);
        fs::create_dir_all(client.join("home")).expect("a home");
        let user = self.folder.path().join("user");
        let mut command = Command::new(self.bazel);
        command
            .env_clear()
            .env("HOME", client.join("home"))
            .env("PATH", "/usr/bin:/bin")
            .arg(format!("--output_user_root={}", user.display()))
            .arg(format!("--output_base={}", client.join("base").display()))
            .arg(word)
            .args(farm)
            .args(words)
            .current_dir(self.file(""))
            .stdin(Stdio::null());
        command
    }

    /// Where a client has what it built.
    pub fn output(&self, client: &str, path: &str) -> PathBuf {
        self.place(client, "bin").join(path)
    }

    /// Where a client has what its tests left.
    pub fn log(&self, client: &str, path: &str) -> PathBuf {
        self.place(client, "testlogs").join(path)
    }

    fn place(&self, client: &str, folder: &str) -> PathBuf {
        self.folder
            .path()
            .join(client)
            .join("base/execroot")
            .join(self.name)
            .join("bazel-out/k8-fastbuild")
            .join(folder)
    }

    /// What a client has of an output file.
    pub fn read(&self, client: &str, path: &str) -> String {
        let path = self.output(client, path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// Changes a source file.
    pub fn edit(&self, path: &str, change: impl FnOnce(String) -> String) {
        let before = fs::read_to_string(self.file(path)).expect("a source file");
        let after = change(before.clone());
        assert_ne!(before, after, "nothing was changed");
        fs::write(self.file(path), after).expect("the changed file");
    }

    /// The servers that clients have left running, by the folder in which they write.
    fn servers(&self) -> Vec<Process> {
        let folder = self.folder.path().to_string_lossy().into_owned();
        let mut all = Process::mentioning(&format!("--output_base={folder}"));
        all.retain(|process| process.state != 'Z');
        all
    }
}

impl Drop for Workspace {
    fn drop(&mut self) {
        for server in self.servers() {
            // It may be gone meanwhile.
            let _ = kill(Pid::from_raw(server.pid), Signal::SIGKILL);
        }
        if !std::thread::panicking() {
            wait_for_none("Bazel's servers", || self.servers());
        }
        // Bazel makes its outputs read-only, folders too.
        let _ = Command::new("chmod")
            .args(["-R", "u+w"])
            .arg(self.folder.path())
            .status();
    }
}

//! BuildStream, as several people have it who work on copies of one project.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::json;
use tempfile::TempDir;
use tests::farm::Farm;
use tests::ran::Ran;
use tests::skip;

const BST: &str = "/opt/hayloft-clients/buildstream-2.8.1/bin/bst";
const BUSYBOX: &str = "/bin/busybox";

/// Whether there is a BuildStream, after it was installed where that is allowed.
pub fn has_buildstream(test: &str) -> bool {
    skip::has(test, &[BST, BUSYBOX])
}

/// A copy of the project, and the clients that build it.
pub struct Project {
    folder: TempDir,
    endpoint: String,
    instance: &'static str,
    all_storage: bool,
}

impl Project {
    /// A copy whose sysroot is made: a busybox and a link for each of its applets.
    pub fn copy(farm: &Farm) -> Self {
        // buildbox-casd puts a socket in here, whose path has to be short.
        let folder = tempfile::Builder::new()
            .prefix("hayloft-bst-")
            .tempdir()
            .expect("a folder");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("buildstream/project");
        let status = Command::new("cp")
            .arg("-r")
            .arg(source)
            .arg(folder.path().join("project"))
            .status();
        assert!(status.expect("cp runs").success());
        let programs = folder.path().join("project/files/sysroot/bin");
        fs::create_dir_all(&programs).expect("a sysroot");
        fs::copy(BUSYBOX, programs.join("busybox")).expect("its busybox");
        let applets = Ran::of(Command::new(BUSYBOX).arg("--list")).assert(0, &["sh\n"]);
        for applet in applets.text.lines().filter(|name| *name != "busybox") {
            symlink("busybox", programs.join(applet)).expect("a link");
        }
        Self {
            folder,
            endpoint: farm.endpoint().replace("grpc://", "http://"),
            instance: "",
            all_storage: false,
        }
    }

    /// Whose clients keep in the farm what they would otherwise keep in their caches.
    pub fn all_storage(mut self) -> Self {
        self.all_storage = true;
        self
    }

    /// Whose clients name this instance.
    pub fn instance(mut self, name: &'static str) -> Self {
        self.instance = name;
        self
    }

    /// A file of a client's own.
    fn place(&self, client: &str, name: &str) -> PathBuf {
        self.folder.path().join(client).join(name)
    }

    /// `bst` as one of several clients, each with a home and caches of its own.
    fn command(&self, client: &str, words: &[&str]) -> Command {
        for name in ["home", "tmp"] {
            fs::create_dir_all(self.place(client, name)).expect("a folder");
        }
        let config = self.place(client, "buildstream.conf");
        fs::write(&config, self.configuration(client)).expect("a configuration");
        let mut command = Command::new(BST);
        command
            .env_clear()
            .env("HOME", self.place(client, "home"))
            .env("TMPDIR", self.place(client, "tmp"))
            .env("PATH", "/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .args(["--no-interactive", "--no-colors", "--config"])
            .arg(config)
            .args(words)
            .current_dir(self.folder.path().join("project"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    fn configuration(&self, client: &str) -> String {
        let place = |name| self.place(client, name);
        let (endpoint, instance) = (&self.endpoint, self.instance);
        let service = json!({"url": endpoint, "instance-name": instance});
        let mut cache = json!({"quota": "2G"});
        let mut remote = json!({
            "execution-service": service,
            "action-cache-service": service,
        });
        let keeper = if self.all_storage {
            &mut cache
        } else {
            &mut remote
        };
        keeper["storage-service"] = service;
        // YAML is JSON and more.
        json!({
            "cachedir": place("cache"),
            "sourcedir": place("sources"),
            "logdir": place("logs"),
            "cache": cache,
            "scheduler": {"on-error": "continue", "network-retries": 0},
            "remote-execution": remote,
        })
        .to_string()
    }

    /// Runs `bst` to its end.
    pub fn bst(&self, client: &str, words: &[&str]) -> Ran {
        Ran::of(&mut self.command(client, words))
    }

    /// Sets `bst` going.
    pub fn start(&self, client: &str, words: &[&str]) -> Child {
        self.command(client, words)
            .spawn()
            .expect("BuildStream runs")
    }

    /// Opens a workspace of an element.
    pub fn workspace(&self, client: &str, element: &str) -> PathBuf {
        let folder = self.place(client, "workspace");
        let name = folder.to_str().expect("a name in UTF-8");
        let words = ["workspace", "open", "--directory", name, element];
        self.bst(client, &words).assert(0, &[]);
        folder
    }

    /// What a client has of an element, in a folder.
    pub fn checkout(&self, client: &str, element: &str) -> PathBuf {
        let folder = self.place(client, element);
        let _ = fs::remove_dir_all(&folder);
        let words = ["artifact", "checkout", "--deps", "none", "--directory"];
        let name = folder.to_str().expect("a name in UTF-8");
        self.bst(client, &[&words[..], &[name, element]].concat())
            .assert(0, &[]);
        folder
    }
}

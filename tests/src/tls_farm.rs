//! A farm whose programs run each on its own, as they would on machines of their own:
//! all talk TCP, every listener has TLS and wants a certificate.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt, FdMapping};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::authority::Authority;
use crate::user::As;

/// The listeners, each with the program that serves it and its number there.
const LISTENERS: [(&str, &str); 5] = [
    ("storage", "front"),
    ("storage", "internal"),
    ("scheduler", "clients"),
    ("scheduler", "workers"),
    ("runner", "runner"),
];

/// In the order in which they are started.
const PROGRAMS: [&str; 4] = ["runner", "storage", "scheduler", "worker"];

/// A running farm. Dropped, its programs are killed.
pub struct TlsFarm {
    who: As,
    folder: TempDir,
    sockets: BTreeMap<&'static str, (TcpListener, u16)>,
    programs: BTreeMap<&'static str, Child>,
}

impl TlsFarm {
    /// Starts the programs. Each shows the certificate of its name, of an authority
    /// that all believe; that of the runner is another one, which the worker alone
    /// believes.
    ///
    /// # Panics
    /// A program or a port cannot be had.
    #[must_use]
    pub fn start() -> Self {
        let who = As::PlainUser;
        let folder = who.folder();
        let sockets = LISTENERS.iter().map(|(_, name)| {
            let socket = TcpListener::bind("127.0.0.1:0").expect("a port");
            let port = socket.local_addr().expect("its number").port();
            (*name, (socket, port))
        });
        let mut farm = Self {
            who,
            sockets: sockets.collect(),
            programs: BTreeMap::new(),
            folder,
        };
        for name in ["store", "build", "cache"] {
            let path = farm.path(name);
            fs::create_dir(&path).expect("a folder");
            who.own(&path);
        }
        let authority = farm.authority("farm");
        for name in ["storage", "scheduler", "worker", "ci", "guest"] {
            farm.certify(&authority, name);
        }
        let authority = farm.authority("sandboxes");
        farm.certify(&authority, "runner");
        farm.certify(&authority, "runners-worker");
        farm.believe("farm");
        for (program, config) in [
            ("runner", farm.runner()),
            ("storage", farm.storage()),
            ("scheduler", farm.scheduler()),
            ("worker", farm.worker()),
        ] {
            let path = farm.path(&format!("{program}.json"));
            fs::write(path, config.to_string()).expect("a configuration");
        }
        for program in PROGRAMS {
            farm.run(program);
        }
        farm
    }

    /// A path in the farm's folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A new authority, whose certificate is `NAME.pem`.
    #[must_use]
    pub fn authority(&self, name: &str) -> Authority {
        Authority::new(self.folder.path(), name)
    }

    /// Makes a certificate, `NAME.pem`, and its key.
    pub fn certify(&self, authority: &Authority, name: &str) {
        authority.certify(name, &["localhost", name]);
        self.who.own(&self.path(&format!("{name}.key")));
    }

    /// Makes this authority the one that all believe.
    ///
    /// # Panics
    /// It has no file.
    pub fn believe(&self, authority: &str) {
        // In one step, as whoever exchanges certificates has to do it.
        let new = self.path("believed.new");
        fs::copy(self.path(&format!("{authority}.pem")), &new).expect("a copy");
        fs::rename(new, self.path("believed.pem")).expect("in place");
    }

    /// Where clients connect.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("grpcs://localhost:{}", self.port("front"))
    }

    /// Kills a program and starts it again.
    ///
    /// # Panics
    /// It cannot be started.
    pub fn restart(&mut self, program: &'static str) {
        let mut killed = self.programs.remove(program).expect("it runs");
        killed.kill().expect("it is there");
        killed.wait().expect("its end");
        self.run(program);
    }

    /// What a program has logged.
    #[must_use]
    pub fn log(&self, program: &str) -> String {
        fs::read_to_string(self.path(&format!("{program}.log"))).unwrap_or_default()
    }

    /// `hayloft run` with a certificate of this name, which believes `authority`.
    #[must_use]
    pub fn client(&self, authority: &str, name: &str, script: &str) -> Command {
        let path = |file: String| self.path(&file).display().to_string();
        let mut command = self.who.command("hayloft-under-test", self.folder.path());
        command
            .args(["run", "--remote", &self.endpoint(), "--tls-authorities"])
            .arg(path(format!("{authority}.pem")))
            .args(["--tls-certificate", &path(format!("{name}.pem"))])
            .args(["--tls-key", &path(format!("{name}.key"))])
            .args(["--instance", "main", "--no-cache"])
            .args(["--", "/bin/sh", "-c", script])
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        command
    }

    fn port(&self, listener: &str) -> u16 {
        self.sockets[listener].1
    }

    fn run(&mut self, program: &'static str) {
        let sockets = LISTENERS.iter().filter(|(role, _)| *role == program);
        let mappings: Vec<FdMapping> = sockets
            .zip(3..)
            .map(|((_, name), child_fd)| FdMapping {
                parent_fd: OwnedFd::from(self.sockets[name].0.try_clone().expect("a socket")),
                child_fd,
            })
            .collect();
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.path(&format!("{program}.log")))
            .expect("a log");
        let mut command = self.who.command("hayloft-under-test", self.folder.path());
        command
            .arg(program)
            .arg(self.path(&format!("{program}.json")))
            .env("LISTEN_FDS", mappings.len().to_string())
            .env_remove("LISTEN_PID")
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stderr(log)
            .fd_mappings(mappings)
            .expect("each has a number of its own");
        let child = command.spawn().expect("a program");
        self.programs.insert(program, child);
    }

    fn pair(&self, name: &str) -> Value {
        json!({"files": {
            "certificate_path": self.path(&format!("{name}.pem")),
            "private_key_path": self.path(&format!("{name}.key")),
        }})
    }

    fn endpoint_config(&self, name: &str, number: usize, authorities: &Path) -> Value {
        json!({
            "listen_addresses": [format!("fd:{number}")],
            "tls": {"server_key_pair": self.pair(name)},
            "authentication_policy": {"tls_client_certificate": {
                "client_certificate_authorities_path": authorities,
            }},
        })
    }

    fn serve(&self, name: &str, number: usize) -> Value {
        self.endpoint_config(name, number, &self.path("believed.pem"))
    }

    fn peer(&self, listener: &str, name: &str) -> Value {
        json!({
            "address": format!("localhost:{}", self.port(listener)),
            "tls": {
                "server_certificate_authorities_path": self.path("believed.pem"),
                "client_key_pair": self.pair(name),
            },
        })
    }

    fn storage(&self) -> Value {
        let only = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|n| format!("certificate:{n}")).collect();
            json!({"rules": [{"principals": names, "instance_name_prefixes": ["main"]}]})
        };
        json!({
            "directory": self.path("store"),
            "client_listen_addresses": [self.serve("storage", 3)],
            "internal_listen_addresses": [self.serve("storage", 4)],
            "scheduler": self.peer("clients", "storage"),
            "client_authorizers": {"execute": only(&["ci"])},
            "internal_authorizers": {
                "put_action_results": only(&["worker"]),
                "get_blobs": only(&["worker", "scheduler"]),
            },
        })
    }

    fn scheduler(&self) -> Value {
        let only = |name| json!({"rules": [{"principals": [format!("certificate:{name}")]}]});
        json!({
            "client_grpc_servers": [self.serve("scheduler", 3)],
            "worker_grpc_servers": [self.serve("scheduler", 4)],
            "content_addressable_storage": self.peer("internal", "scheduler"),
            "action_cache": self.peer("internal", "scheduler"),
            "ignored_properties": "*",
            "execute_authorizer": only("storage"),
            "synchronize_authorizer": only("worker"),
        })
    }

    fn worker(&self) -> Value {
        json!({
            "content_addressable_storage": self.peer("internal", "worker"),
            "scheduler": self.peer("workers", "worker"),
            "build_directory_path": self.path("build"),
            "cache_directory_path": self.path("cache"),
            "runners": [{
                "endpoint": {
                    "address": format!("localhost:{}", self.port("runner")),
                    "tls": {
                        "server_certificate_authorities_path": self.path("sandboxes.pem"),
                        "client_key_pair": self.pair("runners-worker"),
                    },
                },
                "concurrency": 2,
            }],
        })
    }

    fn runner(&self) -> Value {
        json!({
            "build_directory_path": self.path("build"),
            "grpc_servers": [self.endpoint_config("runner", 3, &self.path("sandboxes.pem"))],
        })
    }
}

impl Drop for TlsFarm {
    fn drop(&mut self) {
        for (name, program) in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
            if std::thread::panicking() {
                let log = self.folder.path().join(format!("{name}.log"));
                let log = fs::read_to_string(log).unwrap_or_default();
                eprintln!("log of the {name}:\n{log}");
            }
        }
    }
}

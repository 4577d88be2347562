//! A farm's roles and how they are connected.
//!
//! ```text
//! clients ─▶ storage (front) ─client.sock─▶ scheduler ◀─scheduler.sock─ worker ─runner.sock─▶ runner
//!                 ▲                              │                         │
//!                 └────────── storage.sock ──────┴─────────────────────────┘
//! ```

use std::fs::{File, Permissions};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use daemon::Address;
use daemon::listener::bind_tcp;
use proto::wire::rev2;
use proto::wire::runner_extension::runner_extension_client::RunnerExtensionClient;
use rev2::capabilities_client::CapabilitiesClient;
use serde_json::{Value, json};

use super::child::{Child, Spec, folder};
use super::state::State;
use crate::cli::Root;

/// What a farm is to be.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its state directory.
    pub directory: PathBuf,
    /// Where clients connect.
    pub listen: Listen,
    /// How many actions run at a time.
    pub slots: u16,
    /// Whether what input roots have in common is kept for others.
    pub reuse: bool,
    /// The platform it serves; none: any.
    pub platform: Vec<(String, String)>,
    /// What actions see as their root directory.
    pub root: Root,
    /// What each action may use other than by default.
    pub limits: Vec<(sandbox::Limit, u64)>,
    /// The control group that actions have groups in; none: the runner's own, if it can.
    pub cgroup: Option<PathBuf>,
    /// Clients of these instance names, and of those below them, may write the action
    /// cache.
    pub action_cache_updates: Vec<String>,
    /// Where the first role's diagnostics are told; the other roles' at the ports that
    /// follow. None: on sockets in the state directory.
    pub diagnostics: Option<SocketAddr>,
    /// What its roles log where `HAYLOFT_LOG` does not say.
    pub log: &'static str,
}

/// Where clients connect.
#[derive(Clone, Debug)]
pub enum Listen {
    /// On a TCP address.
    Tcp(String),
    /// On a socket in the state directory, for this process alone.
    Private,
}

/// A running farm.
#[derive(Debug)]
pub struct Farm {
    address: Address,
    runner: Address,
    /// In the order in which they are stopped: first those that make work.
    children: Vec<Child>,
    // After the children: its removal ends what they use.
    _state: State,
}

/// Names of the sockets in the state directory's `run` folder.
const CLIENT: &str = "client.sock";
const FRONT: &str = "front.sock";
const RUNNER: &str = "runner.sock";
const OPERATORS: &str = "operators.sock";
const SCHEDULER: &str = "scheduler.sock";
const STORAGE: &str = "storage.sock";

/// The socket at which a farm's scheduler serves its operator: the user who started
/// the farm.
#[must_use]
pub fn operators_socket(state_directory: &Path) -> PathBuf {
    State::run_of(state_directory).join(OPERATORS)
}

impl Farm {
    /// Starts a farm. Returns when its processes are started, not when they answer.
    ///
    /// # Errors
    /// The state directory, the address or a process cannot be had.
    pub fn start(options: &Options) -> Result<Self> {
        let state = State::take(&options.directory, options.slots)?;
        let run = state.run();
        let (front, address) = match &options.listen {
            Listen::Private => (bind(&run, FRONT, &[])?, Address::Unix(run.join(FRONT))),
            Listen::Tcp(address) => {
                let socket =
                    bind_tcp(address).with_context(|| format!("cannot listen on {address}"))?;
                let bound = socket.local_addr()?;
                let reached = match bound.ip().is_unspecified() {
                    true => format!("localhost:{}", bound.port()),
                    false => bound.to_string(),
                };
                (socket.into(), reached.parse()?)
            }
        };
        let users = *state.identities();
        let start = |role: &'static str,
                     user: Option<u32>,
                     mut sockets: Vec<OwnedFd>,
                     folders: &[PathBuf],
                     mut config: Value|
         -> Result<Child> {
            sockets.push(bind_diagnostics(&run, role, options.diagnostics)?);
            config["global"] = diagnostics_config(&sockets);
            write(&run.join(format!("{role}.json")), &config)?;
            let folders = std::iter::once(&run)
                .chain(folders)
                .map(|path| {
                    File::open(path)
                        .map(OwnedFd::from)
                        .with_context(|| format!("cannot open {}", path.display()))
                })
                .collect::<Result<_>>()?;
            Child::start(Spec {
                role,
                user,
                sockets,
                folders,
                log: options.log,
            })
        };
        let runner_socket = bind(&run, RUNNER, &[users.worker()])?;
        let storage_socket = bind(&run, STORAGE, &[users.worker(), users.scheduler()])?;
        let client_socket = bind(&run, CLIENT, &[users.storage()])?;
        let scheduler_socket = bind(&run, SCHEDULER, &[users.worker()])?;
        let operators_socket = bind(&run, OPERATORS, &[])?;
        let runner = start(
            "runner",
            None,
            vec![runner_socket],
            &[],
            runner_config(options, &state),
        )?;
        let storage = start(
            "storage",
            users.storage(),
            vec![front, storage_socket],
            &[state.storage()],
            storage_config(options),
        )?;
        let scheduler = start(
            "scheduler",
            users.scheduler(),
            vec![client_socket, scheduler_socket, operators_socket],
            &[],
            scheduler_config(options),
        )?;
        let worker = start(
            "worker",
            users.worker(),
            Vec::new(),
            &[state.build(), state.cache()],
            worker_config(options),
        )?;
        Ok(Self {
            address,
            runner: Address::Unix(run.join(RUNNER)),
            children: vec![worker, runner, scheduler, storage],
            _state: state,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Returns when the farm takes work.
    ///
    /// # Errors
    /// A role ended instead; what it said is in the log.
    pub async fn ready(&self) -> Result<()> {
        let answers = async {
            RunnerExtensionClient::new(daemon::connect(&self.runner)?)
                .describe(())
                .await
                .context("the runner does not answer")?;
            CapabilitiesClient::new(daemon::connect(&self.address)?)
                .get_capabilities(rev2::GetCapabilitiesRequest::default())
                .await
                .context("the farm does not answer")?;
            anyhow::Ok(())
        };
        tokio::select! {
            answered = answers => answered,
            (role, status) = self.any_failed() => bail!("the {role} could not start ({status})"),
        }
    }

    async fn any_failed(&self) -> (&'static str, ExitStatus) {
        let [a, b, c, d] = &self.children[..] else {
            return std::future::pending().await;
        };
        tokio::select! {
            status = a.failed() => (a.role(), status),
            status = b.failed() => (b.role(), status),
            status = c.failed() => (c.role(), status),
            status = d.failed() => (d.role(), status),
        }
    }

    /// Stops every role, cutting short the actions that still run.
    pub async fn stop(self) {
        const PATIENCE: Duration = Duration::from_secs(3);
        for child in self.children {
            child.stop(PATIENCE).await;
        }
    }
}

/// Makes a listening socket that only its peers, two at most, and this process's
/// user can connect to: the first as its owner, the second as its group, for each
/// role's group is its own. No peers of other users: none but this one.
fn bind(run: &Path, name: &str, peers: &[Option<u32>]) -> Result<OwnedFd> {
    let path = run.join(name);
    // A path may be too long for a socket's address; the folder's descriptor is not.
    let folder = File::open(run)?;
    let short = format!("/proc/self/fd/{}/{name}", folder.as_raw_fd());
    let listen = || {
        let socket = UnixListener::bind(short)?;
        std::fs::set_permissions(&path, Permissions::from_mode(0o660))?;
        let peer = |place: usize| peers.get(place).copied().flatten();
        chown(&path, peer(0), peer(1))?;
        Ok::<_, std::io::Error>(socket.into())
    };
    listen().with_context(|| format!("cannot listen on {}", path.display()))
}

/// Makes the socket of a role's diagnostics.
fn bind_diagnostics(run: &Path, role: &str, first: Option<SocketAddr>) -> Result<OwnedFd> {
    let Some(mut address) = first else {
        return bind(run, &format!("{role}-diagnostics.sock"), &[]);
    };
    let after = ["scheduler", "worker", "runner", "storage"]
        .into_iter()
        .zip(0..)
        .find_map(|(name, after)| (name == role).then_some(after));
    let port = after.and_then(|after| address.port().checked_add(after));
    address.set_port(port.context("the ports of --diagnostics end at 65535")?);
    let socket = TcpListener::bind(address)
        .with_context(|| format!("cannot tell the {role}'s diagnostics on {address}"))?;
    Ok(socket.into())
}

/// For the role whose last socket is that of its diagnostics.
fn diagnostics_config(sockets: &[OwnedFd]) -> Value {
    let last = format!("fd:{}", 2 + sockets.len());
    json!({"diagnostics_http_server": {"http_servers": [last]}})
}

fn write(path: &Path, config: &Value) -> Result<()> {
    std::fs::write(path, serde_json::to_vec_pretty(config)?)
        .and_then(|()| std::fs::set_permissions(path, Permissions::from_mode(0o644)))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// How a role names a peer's socket.
fn peer(name: &str) -> String {
    format!("unix:{}/{name}", folder(0))
}

fn storage_config(options: &Options) -> Value {
    json!({
        "directory": folder(1),
        "client_listen_addresses": ["fd:3"],
        "internal_listen_addresses": ["fd:4"],
        "scheduler": peer(CLIENT),
        "allow_client_action_cache_updates": options.action_cache_updates,
    })
}

fn scheduler_config(options: &Options) -> Value {
    let mut config = json!({
        "client_grpc_servers": ["fd:3"],
        "worker_grpc_servers": ["fd:4"],
        "build_queue_state_grpc_servers": ["fd:5"],
        "content_addressable_storage": peer(STORAGE),
        "action_cache": peer(STORAGE),
        "predeclared_platform_queues": [{"platform": platform(options)}],
        "expected_workers": options.slots,
        // No other workers will come: what these do not serve is refused at once.
        "platform_queue_with_no_workers_timeout": "0s",
    });
    if options.platform.is_empty() {
        config["ignored_properties"] = json!("*");
    }
    config
}

fn worker_config(options: &Options) -> Value {
    let mut config = json!({
        "content_addressable_storage": peer(STORAGE),
        "action_cache": peer(STORAGE),
        "scheduler": peer(SCHEDULER),
        "build_directory_path": folder(1),
        "cache_directory_path": folder(2),
        // Every instance name is a tenant of its own, as in the storage.
        "cache_tenant_components": u32::MAX,
        // Where the input root is all there is, commands change what is in it.
        "writable_inputs": options.root == Root::Input,
        "runners": [{
            "endpoint": peer(RUNNER),
            "concurrency": options.slots,
            "platform": platform(options),
        }],
    });
    if !options.reuse {
        config["maximum_layer_file_count"] = json!(0);
    }
    config
}

fn runner_config(options: &Options, state: &State) -> Value {
    let mut config = json!({
        "build_directory_path": state.build(),
        "grpc_servers": ["fd:3"],
        "root": match options.root {
            Root::Host => "host",
            Root::Input => "input",
        },
    });
    for (limit, value) in &options.limits {
        config["limits"][limit.name()] = json!(value);
    }
    if let Some(cgroup) = &options.cgroup {
        config["cgroup"] = json!(cgroup);
    }
    if let Some((start, count)) = state.identities().slots() {
        config["uid_range"] = json!({"start": start, "count": count});
    }
    if let Some(service) = state.identities().service() {
        config["service_uid"] = json!(service);
        config["service_gid"] = json!(service);
    }
    config
}

fn platform(options: &Options) -> Value {
    let properties: Value = options
        .platform
        .iter()
        .map(|(name, value)| json!({"name": name, "value": value}))
        .collect();
    json!({"properties": properties})
}

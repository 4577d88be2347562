//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

pub mod credentials;
pub mod operators;

pub use credentials::Credentials;
pub use operators::{Drain, Kill, Queue, Workers};

/// A remote execution farm on one machine, every action in a sandbox.
#[derive(Debug, Parser)]
#[command(name = "hayloft", version)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What the program can do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole farm here: storage, scheduler, worker and runner.
    Up(Up),
    /// Run one command remotely: upload its inputs, fetch its outputs.
    Run(Box<Run>),
    /// Tell what a farm knows of an action: what ran, on what, and what became of it.
    Action(Box<Action>),
    /// List a scheduler's queues and what is in them.
    Queue(Box<Queue>),
    /// List a scheduler's workers and what they execute.
    Workers(Box<Workers>),
    /// Have workers take no more work; without a pattern, list who takes none.
    Drain(Box<Drain>),
    /// End actions, whoever waits for them.
    Kill(Box<Kill>),
    /// Tell what isolation this host can give, and how to get the rest.
    Doctor(Doctor),
    /// One role of a farm.
    #[command(flatten)]
    Role(crate::role::Role),
}

/// What the action sees as its root directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Root {
    /// This machine's /usr, read-only; the input root at /build/root.
    #[default]
    Host,
    /// The input root itself.
    Input,
}

/// Options of a farm.
#[derive(Args, Clone, Debug, Default)]
pub struct Up {
    /// Where the farm keeps its state [default: $XDG_DATA_HOME/hayloft].
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where clients connect; :PORT is every address of this host.
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:8980")]
    pub listen: String,
    /// How many actions run at a time [default: the number of processors].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub slots: Option<u16>,
    /// Serve only actions that ask for exactly these platform properties
    /// [default: serve any platform].
    #[arg(long = "platform", value_name = "KEY=VALUE", value_parser = key_value)]
    pub platform: Vec<(String, String)>,
    /// Let clients of these instance names, and of those below them, write the action
    /// cache; without names, all clients. Whoever may can make every later build take
    /// what they wrote [default: only the farm's worker writes it].
    #[arg(long, value_name = "INSTANCE", num_args = 0.., value_delimiter = ',',
          require_equals = true, default_missing_value = "")]
    pub allow_action_cache_updates: Option<Vec<String>>,
    /// What actions see as their root directory.
    #[arg(long, value_enum, default_value_t)]
    pub root: Root,
    /// What each action may use, by the names of a runner's `limits`, such as
    /// memory_bytes=8000000000; the rest as by default.
    #[arg(long = "limit", value_name = "NAME=NUMBER", value_parser = limit)]
    pub limits: Vec<(sandbox::Limit, u64)>,
    /// A control group (v2) that nobody else uses, for a group of each action
    /// [default: the own one, if it was delegated and nobody else is in it].
    #[arg(long, value_name = "DIR")]
    pub cgroup: Option<PathBuf>,
    /// Link every input root anew. Otherwise what input roots have in common is kept
    /// and laid under them, where this host can do that: then rename(2) of a
    /// directory of the inputs fails with EXDEV.
    #[arg(long)]
    pub no_reuse: bool,
    /// Where metrics and health are told by HTTP: the scheduler's here, the worker's,
    /// the runner's and the storage's at the three ports that follow [default: on
    /// sockets in the state directory].
    #[arg(long, value_name = "HOST:PORT")]
    pub diagnostics: Option<SocketAddr>,
}

/// Options of one remote command.
#[derive(Args, Clone, Debug)]
pub struct Run {
    /// The farm [default: one that is started for this command alone].
    #[arg(id = "address", long = "remote", value_name = "grpc[s]://HOST:PORT")]
    pub remote: Option<daemon::Upstream>,
    /// How the farm is known, and shown who calls.
    #[command(flatten)]
    pub credentials: Credentials,
    /// The instance name at the farm.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub instance: String,
    /// A folder whose content is the command's working directory.
    #[arg(long, value_name = "DIR")]
    pub input: Option<PathBuf>,
    /// A file or folder to bring back, relative to the working directory.
    #[arg(long, value_name = "PATH")]
    pub output: Vec<String>,
    /// An environment variable of the command; it gets no others but PATH.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub env: Vec<(String, String)>,
    /// A platform property the command asks for.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub platform: Vec<(String, String)>,
    /// How long the command may run, in seconds.
    #[arg(long, value_name = "SECONDS")]
    pub timeout: Option<u64>,
    /// Run it even if its result is known, and do not keep the result.
    #[arg(long)]
    pub no_cache: bool,
    /// Print one JSON object that tells what became of the command, with its output in
    /// it, instead of its output.
    #[arg(long)]
    pub json: bool,
    /// What the command sees as its root directory, on a farm of its own.
    #[arg(long, value_enum, default_value_t)]
    pub root: Root,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<String>,
}

/// Options of a look at an action.
#[derive(Args, Clone, Debug)]
pub struct Action {
    /// The farm.
    #[arg(id = "address", long = "remote", value_name = "grpc[s]://HOST:PORT")]
    pub remote: daemon::Upstream,
    /// How the farm is known, and shown who calls.
    #[command(flatten)]
    pub credentials: Credentials,
    /// The instance name at the farm.
    #[arg(long, value_name = "NAME", default_value = "")]
    pub instance: String,
    /// List all inputs and outputs, not the first of them alone.
    #[arg(long)]
    pub all: bool,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    /// HASH-SIZE or HASH/SIZE of the Action or of the HistoricalExecuteResponse that
    /// Buildbarn's workers and Hayloft's keep of an action that failed, or the link to
    /// either in a worker's message.
    #[arg(value_name = "DIGEST")]
    pub digest: crate::action::Name,
}

/// Options of the examination.
#[derive(Args, Clone, Debug)]
pub struct Doctor {
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Print what the default sandbox does here, step by step, and which protection
    /// each step gives.
    #[arg(long, conflicts_with = "json")]
    pub plan: bool,
    /// What actions see as their root directory.
    #[arg(long, value_enum, default_value_t)]
    pub root: Root,
    /// Print what a container that holds a runner needs of a system call profile:
    /// FILE, the container runtime's own, widened.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["json", "plan"])]
    pub seccomp_profile: Option<PathBuf>,
}

/// Splits `NAME=NUMBER`, the name being a limit's.
fn limit(text: &str) -> Result<(sandbox::Limit, u64), String> {
    let (name, number) = key_value(text)?;
    let limit = sandbox::Limit::from_name(&name).ok_or_else(|| {
        let names = sandbox::Limit::ALL.map(sandbox::Limit::name).join(", ");
        format!("{name:?} is no limit; there are {names}")
    })?;
    let number = number.parse();
    Ok((limit, number.map_err(|error| format!("{name}: {error}"))?))
}

/// Parses `KEY=VALUE`.
///
/// # Errors
/// There is no `=`, or nothing before it.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.into(), value.into())),
        _ => Err(format!("{text:?} is not of the form KEY=VALUE")),
    }
}

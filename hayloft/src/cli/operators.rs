//! Options of the commands for operators of a scheduler.

use clap::{Args, ValueEnum};
use daemon::Upstream;
use tonic::Code;

use super::{Credentials, key_value};

/// Which scheduler, and how its answers are shown.
#[derive(Args, Clone, Debug)]
pub struct Scheduler {
    /// Where the scheduler, Hayloft's or Buildbarn's, serves operators
    /// (build_queue_state_grpc_servers) [default: that of the farm which `hayloft up`
    /// runs on its default state directory].
    #[arg(
        id = "address",
        long = "scheduler",
        value_name = "grpc[s]://HOST:PORT|unix:PATH"
    )]
    pub address: Option<Upstream>,
    /// How the scheduler is known, and shown who calls.
    #[command(flatten)]
    pub credentials: Credentials,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}

/// Which queues of the scheduler; all that match.
#[derive(Args, Clone, Debug, Default)]
pub struct Selection {
    /// Only queues of this prefix of instance names.
    #[arg(long, value_name = "NAME")]
    pub prefix: Option<String>,
    /// Only queues whose platform has this property.
    #[arg(long, value_name = "KEY=VALUE", value_parser = key_value)]
    pub platform: Vec<(String, String)>,
    /// Only queues of this size class.
    #[arg(long, value_name = "N")]
    pub size_class: Option<u32>,
}

/// Where an operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// It waits for a worker.
    Queued,
    /// A worker has it.
    Executing,
    /// It is done, and kept for a while.
    Completed,
}

/// Options of the list of queues.
#[derive(Args, Clone, Debug)]
pub struct Queue {
    /// Which scheduler.
    #[command(flatten)]
    pub scheduler: Scheduler,
    /// Which queues.
    #[command(flatten)]
    pub selection: Selection,
    /// List operations of this stage [default: those that execute, then those queued].
    #[arg(long, value_enum, conflicts_with = "operation")]
    pub stage: Option<Stage>,
    /// How many operations of each stage are listed.
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub limit: usize,
    /// Tell of this operation alone.
    #[arg(value_name = "OPERATION")]
    pub operation: Option<String>,
}

/// Options of the list of workers.
#[derive(Args, Clone, Debug)]
pub struct Workers {
    /// Which scheduler.
    #[command(flatten)]
    pub scheduler: Scheduler,
    /// Which queues' workers.
    #[command(flatten)]
    pub selection: Selection,
}

/// Options of drains.
#[derive(Args, Clone, Debug)]
pub struct Drain {
    /// Which scheduler.
    #[command(flatten)]
    pub scheduler: Scheduler,
    /// Which queues.
    #[command(flatten)]
    pub selection: Selection,
    /// Let these workers take work again.
    #[arg(long)]
    pub remove: bool,
    /// Have these workers, of any queue, take no work ever again, and wait until they
    /// have none: before their machine is switched off.
    #[arg(long, conflicts_with_all = ["remove", "prefix", "platform", "size_class"])]
    pub terminate: bool,
    /// All workers.
    #[arg(long, conflicts_with = "worker")]
    pub all_workers: bool,
    /// The workers whose id has all of these pairs.
    #[arg(value_name = "KEY=VALUE", id = "worker", value_parser = key_value)]
    pub pattern: Vec<(String, String)>,
}

/// Options of ending actions.
#[derive(Args, Clone, Debug)]
pub struct Kill {
    /// Which scheduler.
    #[command(flatten)]
    pub scheduler: Scheduler,
    /// Which queues, with --queued-without-workers.
    #[command(flatten)]
    pub selection: Selection,
    /// What the clients are told that went wrong. After most codes but this one Bazel
    /// tries again by itself.
    #[arg(long, value_name = "CODE", default_value = "FAILED_PRECONDITION", value_parser = code)]
    pub code: Code,
    /// And in words.
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "ended by an operator of the farm"
    )]
    pub message: String,
    /// All that is queued where there are no workers.
    #[arg(long, conflicts_with = "operation")]
    pub queued_without_workers: bool,
    /// The operations, by name.
    #[arg(
        value_name = "OPERATION",
        id = "operation",
        required_unless_present = "queued_without_workers"
    )]
    pub operations: Vec<String>,
}

/// A code of gRPC by its name, in any spelling; not OK.
fn code(text: &str) -> Result<Code, String> {
    let plain = |name: &str| name.replace('_', "").to_lowercase();
    (1..=16)
        .map(Code::from_i32)
        .find(|code| plain(&format!("{code:?}")) == plain(text))
        .ok_or_else(|| format!("{text:?} is no code that an error of gRPC has"))
}

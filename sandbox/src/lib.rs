//! Sandboxes for the commands of actions.
//!
//! [`Policy`] (what is wanted) and [`Probe`] (what the host has) become a
//! [`Plan`] (an ordered list of steps) or a [`Refusal`]. [`split`] cuts the
//! process in two: the *launcher* half (the parent: single-threaded, without
//! network, holds whatever privilege there is, makes and reaps sandboxes) and
//! the *service* half (the child: no privilege at all, may do what it likes
//! with threads and sockets), which asks the launcher through a [`Client`].
//!
//! ```text
//!  service half ── Request ──► launcher ── clone ──► init (pid 1 of a sandbox, made ahead)
//!               ◄── Reply ───            ◄─ report ─   └─ the command
//! ```
//!
//! # Without namespaces
//!
//! Where the host lets nobody make one, a policy may switch all six off. What is left is
//! Landlock, the system call filter and limits; `without_namespaces.rs` says how.

mod attempt;
mod attend;
mod base;
mod blame;
mod cgroup;
mod client;
mod command;
mod core_dump;
mod disk;
mod done;
mod etc;
mod helper;
mod id_map;
mod ids;
mod init;
mod landlock;
mod launcher;
mod limits;
mod memory;
mod message;
mod mount_map;
mod mounts;
mod network;
mod order;
mod overlay;
mod paths;
mod plan;
mod policy;
mod policy_check;
mod probe;
mod process_tree;
mod reclaim;
mod rejection;
mod report;
mod rlimits;
mod run_request;
mod sandbox;
mod seccomp;
mod service_half;
mod split;
mod step;
mod subordinate;
mod surroundings;
mod sys;
mod urgency;
mod user_namespace;
mod watch;
mod wire;
mod without_namespaces;

pub use attend::attend;
pub use cgroup::CgroupChoice;
pub use client::{Client, ClientError, Frame};
pub use done::{Done, End, Usage};
pub use id_map::IdPair;
pub use limits::{Limit, Limits};
pub use message::{Failure, FailureKind, MessageError, PATH_BYTES, RUN_BYTES, Reply, Request};
pub use overlay::MOST_LAYERS;
pub use plan::{Held, Plan, Refusal};
pub use policy::{HostIds, Need, Policy, Protection, Root};
pub use probe::{Feature, Finding, Probe};
pub use rlimits::{MOST_RECLAIMS, most_concurrent};
pub use run_request::RunRequest;
pub use split::{Config, Error, ServiceHalf, split};
pub use step::{Phase, Step};
pub use subordinate::Subordinate;
pub use surroundings::{Container, Surroundings};

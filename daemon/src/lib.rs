//! What every program of Hayloft needs to be a daemon.
//!
//! A program's `main` calls [`start`] before anything else, reads its
//! configuration with [`config::load`], makes a [`Shutdown`] that its signals
//! trigger, starts its [`Diagnostics`], [`listen`]s, [`serve`]s gRPC until it is told
//! to stop, and reaches its peers through [`connect`].
//!
//! # How to register a metric
//!
//! `run` of each program makes its [`Diagnostics`] and hands
//! [`Diagnostics::metrics`] to whoever has something to count: a part keeps a struct
//! of counters (`Default`, cloned into what counts) with a `register(&self,
//! &Metrics)`, as [`metrics`] shows. The crate that defines labels depends on
//! `prometheus-client` for its derive of `EncodeLabelSet`.

#![forbid(unsafe_code)]

mod accept;
pub mod address;
pub mod authenticate;
pub mod authorize;
pub mod config;
pub mod connection;
pub mod context;
pub mod diagnostics;
mod dial;
pub mod duration;
pub mod endpoint;
pub mod error;
mod grpc_metrics;
mod incoming;
mod init;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod once;
mod process;
pub mod program;
pub mod reflection;
pub mod server;
pub mod shutdown;
pub mod subject;
pub mod telemetry;
pub mod tls;
mod transport;
pub mod upstream;
mod watched;

pub use address::Address;
pub use authenticate::{AuthenticationPolicy, PeerCredentials, Principal};
pub use authorize::Authorizer;
pub use connection::{Channel, connect};
pub use context::CallContext;
pub use diagnostics::{Diagnostics, Global};
pub use endpoint::Endpoint;
pub use error::Error;
pub use limits::raise_open_files;
pub use listener::{Listener, listen};
pub use metrics::Metrics;
pub use once::{Lost, was_not_sent};
pub use program::run;
pub use reflection::reflect;
pub use server::{serve, serve_to_the_end};
pub use shutdown::Shutdown;
pub use subject::Subject;
pub use upstream::Upstream;

/// Takes what the process was given at its start: descriptors of listening
/// sockets, and the log filter. Call it once, first thing in `main`, while there
/// is only one thread. As pid 1 the process becomes the program's init, and a child of
/// it goes on as the program (`init`).
pub fn start() {
    init::split_off();
    listener::take_inherited();
    telemetry::start("info");
}

/// As [`start`], for a command whose own output is what people want to see:
/// without a filter of theirs it logs only what goes wrong.
pub fn start_quiet() {
    init::split_off();
    listener::take_inherited();
    telemetry::start("error");
}

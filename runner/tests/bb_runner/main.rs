//! The real program on a unix socket, called as a worker calls it.
//!
//! Every test runs twice: with a runner that root starts (own uids), and with one
//! of a plain user. Nothing here waits for time to pass: a command tells by a fifo
//! that it has started, and the fifo's end of file that all of it is dead.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod commands;
mod emulated;
mod ends;
mod fifo;
mod halves;
mod harness;
mod refusals;
mod upkeep;
mod upstream_worker;

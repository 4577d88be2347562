//! What parses foreign bytes, as functions of any bytes at all: each panics where
//! something is wrong. `tests/` calls them with the seeds in `corpus/` and with what a
//! seeded generator makes of those; `libfuzzer/` lets libFuzzer look for more.

#![forbid(unsafe_code)]

mod calls;
mod mutate;
mod names;
mod runner_messages;
mod sandbox_messages;
mod scheduler_calls;
mod storage_calls;

pub use calls::frame;
pub use mutate::mutate;
pub use names::names;
pub use runner_messages::runner_messages;
pub use sandbox_messages::sandbox_messages;
pub use scheduler_calls::{METHODS as SCHEDULER_METHODS, scheduler_calls};
pub use storage_calls::{METHODS as STORAGE_METHODS, storage_calls};

/// A function of any bytes.
pub type Target = fn(&[u8]);

/// All of them, by the name of their corpus.
pub const TARGETS: [(&str, Target); 5] = [
    ("names", names),
    ("runner_messages", runner_messages),
    ("sandbox_messages", sandbox_messages),
    ("scheduler_calls", scheduler_calls),
    ("storage_calls", storage_calls),
];

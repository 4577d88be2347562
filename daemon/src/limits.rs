//! What the kernel lets this process have.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises the limit of open files (RLIMIT_NOFILE) from its soft value, often 1024
/// for the sake of programs that use `select(2)`, to its hard one: each connection
/// and each blob under way takes a descriptor. Programs that start foreign ones
/// leave it as it is, since those inherit it. Where it cannot be raised the log
/// says so, and the program runs within what it has.
pub fn raise_open_files() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
}

//! The event loop of a program.

use crate::{Error, Shutdown, raise_open_files};

/// Runs a program that serves peers and starts nothing foreign, on threads of its
/// own, until it returns; SIGTERM and SIGINT trigger its [`Shutdown`].
///
/// # Errors
/// The threads or the signal handlers cannot be had, or what the program fails with.
pub fn run<E: From<Error>>(program: impl AsyncFnOnce(Shutdown) -> Result<(), E>) -> Result<(), E> {
    raise_open_files();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads())
        .enable_all()
        .build()
        .map_err(Error::Threads)?
        .block_on(async { program(Shutdown::on_signals()?).await })
}

/// Half the processors: several of these programs share a machine with the actions
/// that they run, and each thread more is one more to wake between a request and its
/// answer. What takes long (files, hashing) runs on threads of its own anyway.
fn threads() -> usize {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    (processors / 2).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_programs_failure_is_returned() {
        let failed = run(async |shutdown: Shutdown| {
            assert!(!shutdown.is_cancelled());
            Err(Error::NotInherited(7))
        });
        assert!(matches!(failed, Err(Error::NotInherited(7))));
    }
}

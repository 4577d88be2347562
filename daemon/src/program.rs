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
        .enable_all()
        .build()
        .map_err(Error::Threads)?
        .block_on(async { program(Shutdown::on_signals()?).await })
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

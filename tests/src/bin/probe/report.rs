//! How attempts are reported.

use std::io::Write;

use nix::errno::Errno;

/// Reports what came of an attempt, and gives what it gave.
pub fn attempt<T>(name: &str, result: Result<T, Errno>) -> Option<T> {
    match result {
        Ok(value) => {
            say(name, "OK");
            Some(value)
        }
        Err(errno) => {
            say(name, &format!("{errno:?}"));
            None
        }
    }
}

/// Reports something else than an errno.
pub fn say(name: &str, result: &str) {
    // At once: an attack may end this process. A reader that is gone wants no more.
    let _ = writeln!(std::io::stdout(), "{name}: {result}");
    let _ = std::io::stdout().flush();
}

/// The result of a call that gives -1 and errno on failure.
pub fn check(result: libc::c_long) -> Result<libc::c_long, Errno> {
    Errno::result(result)
}

/// The errno in an error of the standard library.
pub fn errno(error: &std::io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

//! The limit of open files, which is the whole process's: alone in this one.

#![allow(clippy::unwrap_used)]

use nix::sys::resource::{Resource, getrlimit, setrlimit};

#[test]
fn the_soft_limit_becomes_the_hard_one() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard / 2, hard).unwrap();
    daemon::raise_open_files();
    assert_eq!(getrlimit(Resource::RLIMIT_NOFILE).unwrap(), (hard, hard));
}

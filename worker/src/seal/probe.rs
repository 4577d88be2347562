//! Runs in a runner's sandbox and does to the file `victim` in its working
//! directory what an action must not be able to do to a cached file. It does not
//! judge what it achieved: the worker looks at the inode. Its exit code only says
//! that every attempt was made.

use std::fs::{File, FileTimes, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::time::{Duration, UNIX_EPOCH};

/// Agreed with `seal/mod.rs`.
const ALL_TRIED: i32 = 42;

fn main() {
    let victim = "victim";
    // Another name for it, where writes may be allowed.
    let _ = std::fs::hard_link(victim, "linked");
    for name in [victim, "linked"] {
        let _ = std::fs::set_permissions(name, Permissions::from_mode(0o666));
        // Whoever owns it, one of these is somebody else.
        for id in [0, 1] {
            let _ = chown(name, Some(id), None);
            let _ = chown(name, None, Some(id));
        }
        if let Ok(mut file) = OpenOptions::new().append(true).open(name) {
            let _ = file.write_all(b"spoiled");
        }
        if let Ok(file) = OpenOptions::new().write(true).open(name) {
            let _ = file.set_len(1);
        }
        if let Ok(file) = File::open(name) {
            let long_ago = FileTimes::new().set_modified(UNIX_EPOCH + Duration::from_secs(1));
            let _ = file.set_times(long_ago);
            let _ = file.set_permissions(Permissions::from_mode(0o777));
        }
    }
    std::process::exit(ALL_TRIED);
}

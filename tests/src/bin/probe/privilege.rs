//! Attack 24: privilege through a setuid program.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::{Uid, geteuid, getuid, setresuid};

use crate::report::{attempt, errno, say};

/// Attack 24: runs `setuid`, a copy of this program that was to be setuid; makes
/// itself setuid and runs that; and looks at what the kernel was told.
pub fn gain(setuid: &str) {
    let mode = fs::metadata(setuid).map(|metadata| metadata.mode());
    say("mode", &format!("{:o}", mode.unwrap_or_default() & 0o7777));
    run("input", setuid);
    let own = "own-setuid";
    let copied = fs::copy(setuid, own)
        .and_then(|_| fs::set_permissions(own, Permissions::from_mode(0o6755)));
    attempt("chmod u+s", copied.map_err(|error| errno(&error)));
    run("copy", own);
    // Root, or for who is root here another one.
    let other = Uid::from_raw(u32::from(getuid().is_root()));
    attempt("setresuid", setresuid(other, other, other));
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in status.lines() {
        if let Some((name, value)) = line.split_once(":\t")
            && matches!(
                name,
                "NoNewPrivs" | "CapPrm" | "CapEff" | "CapBnd" | "CapInh" | "CapAmb"
            )
        {
            say(name, value);
        }
    }
    for folder in [".", "/", "/tmp", "/usr", "/dev/shm"] {
        let nosuid = statvfs(folder).map(|found| found.flags().contains(FsFlags::ST_NOSUID));
        if let Ok(nosuid) = nosuid {
            say(
                &format!("nosuid {folder}"),
                if nosuid { "yes" } else { "no" },
            );
        }
    }
}

fn run(name: &str, program: &str) {
    let path = fs::canonicalize(program).unwrap_or_else(|_| program.into());
    let output = Command::new(path).arg("whoami").output();
    match output {
        Ok(output) => {
            let ids = String::from_utf8_lossy(&output.stdout);
            say(name, ids.trim());
            let gained = match ids.trim().split_once(' ') {
                Some((real, effective)) if real != effective => Ok(()),
                _ => Err(nix::errno::Errno::EPERM),
            };
            attempt(&format!("gain by {name}"), gained);
        }
        Err(error) => say(name, &format!("{:?}", errno(&error))),
    }
}

/// Says its real and its effective user.
pub fn whoami() {
    println!("{} {}", getuid(), geteuid());
}

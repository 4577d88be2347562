//! Attacks 8, 9 and 21: files and processes that are not this action's.

use std::collections::BTreeSet;
use std::fs::{self, File, FileType};
use std::io::Read;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use crate::report::{attempt, errno, say};

/// Files up to this size are searched for the secret.
const SMALL: u64 = 64 << 10;
/// Trees that hold no action's files: the kernel's, and the host's programs.
const ELSEWHERE: [&str; 6] = ["/proc", "/sys", "/usr", "/bin", "/lib", "/lib64"];

/// Attacks 8 and 9: opens `paths` (of the host), reaches for them by detours, and
/// searches all that is below `start` for the secret, by name and by content.
pub fn find(secret: &str, start: &str, paths: &[&str]) {
    for path in paths {
        attempt(&format!("open {path}"), open(path.as_ref()));
        for (detour, result) in detours(path) {
            attempt(&format!("open {detour}"), result);
        }
    }
    for entry in fs::read_dir("/proc/self/fd")
        .into_iter()
        .flatten()
        .flatten()
    {
        // The folder that is being read has a descriptor too.
        if let Ok(target) = fs::read_link(entry.path())
            && target.is_dir()
            && !target.starts_with("/proc")
        {
            say(&format!("descriptor {}", target.display()), "inherited");
        }
    }
    let seen = search(Path::new(start), secret);
    // Tells a search that found nothing from one that did not happen.
    say("search", if seen.is_empty() { "nothing" } else { "found" });
    for path in seen {
        say(&format!("found {}", path.display()), "OK");
    }
}

fn open(path: &Path) -> Result<(), Errno> {
    File::open(path).map(drop).map_err(|error| errno(&error))
}

/// Other ways to a path of the host: through other processes' roots and working
/// directories, and up from here by `..`. Only those that lead somewhere, and one
/// that does not for each kind.
fn detours(path: &str) -> Vec<(String, Result<(), Errno>)> {
    let mut found = Vec::new();
    let bases = ["/proc/self/root", "/proc/1/root", "/proc/1/cwd"];
    for base in bases {
        let detour = format!("{base}{path}");
        found.push((detour.clone(), open(detour.as_ref())));
    }
    // The working directory may be any number of levels below what both paths
    // have in common.
    let components: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let mut climb = Err(Errno::ENOENT);
    for kept in 1..=components.len() {
        let rest = components[components.len() - kept..].join("/");
        for levels in 1..=16 {
            let detour = format!("{}{rest}", "../".repeat(levels));
            if open(detour.as_ref()).is_ok() && !same(&detour, path) {
                climb = Ok(());
                found.push((detour, Ok(())));
            }
        }
    }
    found.push((format!("..{path}"), climb));
    found
}

/// Whether a detour is the path itself, which has been reported.
fn same(detour: &str, path: &str) -> bool {
    match (fs::canonicalize(detour), fs::canonicalize(path)) {
        (Ok(detour), Ok(path)) => detour == path,
        _ => false,
    }
}

fn search(start: &Path, secret: &str) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut pending = vec![start.to_path_buf()];
    while let Some(folder) = pending.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let named = entry.file_name().to_string_lossy().contains(secret);
            let kind = entry.file_type().ok();
            if named || kind.is_some_and(|kind| kind.is_file() && holds(&path, secret)) {
                found.insert(path.clone());
            }
            let enter = kind.is_some_and(|kind: FileType| kind.is_dir());
            if enter && !ELSEWHERE.iter().any(|tree| path == Path::new(tree)) {
                pending.push(path);
            }
        }
    }
    found
}

/// Whether a small file holds the secret. What a folder lists as a file may be a
/// device that is mounted there, so look again.
fn holds(path: &Path, secret: &str) -> bool {
    let is_small =
        fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.len() <= SMALL);
    is_small && fs::read(path).is_ok_and(|bytes| contains(&bytes, secret))
}

fn contains(bytes: &[u8], secret: &str) -> bool {
    bytes
        .windows(secret.len())
        .any(|window| window == secret.as_bytes())
}

/// Attack 21: looks into the processes `pids` (of the host) and into those that
/// `/proc` shows, for what they hold and for the secret in their environments.
pub fn look_at_processes(secret: &str, pids: &[&str]) {
    for pid in pids {
        look_into(pid);
    }
    let own = std::process::id().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.bytes().all(|byte| byte.is_ascii_digit()) || name == own {
            continue;
        }
        let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // One line, however many its words have.
        let words = String::from_utf8_lossy(&words).replace(['\0', '\n', ':'], " ");
        say(&format!("visible {name}"), words.trim());
        if !pids.contains(&name.as_str()) {
            look_into(&name);
        }
        let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
        let holds = contains(&environment, secret);
        say(
            &format!("secret of {name}"),
            if holds { "OK" } else { "no" },
        );
    }
    let own = std::env::vars_os().any(|(_, value)| value == secret);
    say("secret of its own", if own { "OK" } else { "no" });
}

fn look_into(pid: &str) {
    for what in ["root", "cwd", "exe"] {
        let path = format!("/proc/{pid}/{what}");
        let target = fs::read_link(&path).map_err(|error| errno(&error));
        attempt(&format!("link {path}"), target);
        attempt(&format!("open {path}"), open(path.as_ref()));
    }
    for what in ["fd", "map_files"] {
        let path = format!("/proc/{pid}/{what}");
        let listed = fs::read_dir(&path).map_err(|error| errno(&error));
        attempt(&format!("list {path}"), listed);
    }
    for what in ["environ", "maps"] {
        let path = format!("/proc/{pid}/{what}");
        let read = File::open(&path).and_then(|mut file| file.read(&mut [0; 16]));
        attempt(&format!("read {path}"), read.map_err(|error| errno(&error)));
    }
    let path = format!("/proc/{pid}/mem");
    let opened = File::options().read(true).write(true).open(&path);
    attempt(
        &format!("write {path}"),
        opened.map_err(|error| errno(&error)),
    );
}

//! Core dumps of a command, put where the worker finds logs of the runner.
//!
//! The kernel writes a dump where `kernel.core_pattern` says (`core(5)`), which is one
//! setting for the whole host: beside the working directory of the process that died,
//! at an absolute path of *its* root, or into a program of the host's. The first, and of
//! the second what lies in `/tmp`, are within the action's directories, and are moved
//! from there when all of the command is dead. Nothing tells that there is a dump, so
//! that files are looked at that bear a name of the pattern: a dump is an ELF file of
//! that type.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{OFlag, RenameFlags, openat, renameat2};
use nix::libc;
use nix::sys::stat::{Mode, fstat};

use crate::paths::{Relative, open_readable};

/// Most names that are looked at for those of the pattern: the launcher does nothing
/// else meanwhile.
const MOST_NAMES: usize = 4096;
/// Most dumps of one command.
const MOST_DUMPS: usize = 16;
/// Most bytes of the pattern, its NUL included (`core(5)`).
const PATTERN_BYTES: u64 = 128;

/// Directories of a run, below the build directory.
#[derive(Debug)]
pub(crate) struct Directories {
    /// Where what the command wrote to its input root is, and its working directory
    /// in there.
    pub(crate) written: Vec<u8>,
    pub(crate) working: Vec<u8>,
    /// What was its `/tmp`; empty: nothing that outlives it.
    pub(crate) temporary: Vec<u8>,
    /// Where dumps go.
    pub(crate) logs: Vec<u8>,
}

/// Where dumps of a command can be found.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    WorkingDirectory,
    Temporary,
}

/// What names dumps have.
#[derive(Debug, PartialEq, Eq)]
enum Names {
    One(Vec<u8>),
    /// All that begin so: what follows differs from dump to dump.
    Beginning(Vec<u8>),
}

/// The host's setting.
#[derive(Debug, PartialEq, Eq)]
struct Pattern {
    place: Place,
    names: Names,
}

/// Moves the dumps of a dead command. `proc` is open at a `/proc` of the host's.
///
/// What cannot be found, or moved, stays: a dump is no more than a help.
pub(crate) fn collect(proc: BorrowedFd<'_>, build: BorrowedFd<'_>, of: &Directories) {
    if let Some(pattern) = Pattern::read(proc) {
        let _ = pattern.collect(build, of);
    }
}

impl Pattern {
    fn read(proc: BorrowedFd<'_>) -> Option<Self> {
        let text = |name: &str| {
            let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            let file = File::from(openat(proc, name, flags, Mode::empty()).ok()?);
            let mut text = Vec::new();
            file.take(PATTERN_BYTES).read_to_end(&mut text).ok()?;
            Some(text)
        };
        let with_pid = text("sys/kernel/core_uses_pid")?;
        Self::of(
            text("sys/kernel/core_pattern")?.trim_ascii_end(),
            with_pid.trim_ascii_end() != b"0",
        )
    }

    /// `None` where dumps are not in the action's directories, or none are written.
    fn of(text: &[u8], with_pid: bool) -> Option<Self> {
        let (place, name) = match text.strip_prefix(b"/tmp/") {
            Some(name) => (Place::Temporary, name),
            None => (Place::WorkingDirectory, text),
        };
        // A program, a socket, or a directory that no action has.
        if matches!(name.first(), None | Some(b'|' | b'@' | b'/')) || name.contains(&b'/') {
            return None;
        }
        let names = match name.iter().position(|byte| *byte == b'%') {
            Some(fixed) => Names::Beginning(name[..fixed].to_vec()),
            None if with_pid => Names::Beginning([name, b"."].concat()),
            None => Names::One(name.to_vec()),
        };
        Some(Self { place, names })
    }

    fn collect(&self, build: BorrowedFd<'_>, of: &Directories) -> nix::Result<()> {
        let path = match self.place {
            Place::WorkingDirectory if of.working.is_empty() => of.written.clone(),
            Place::WorkingDirectory => [&of.written[..], b"/", &of.working].concat(),
            Place::Temporary if of.temporary.is_empty() => return Ok(()),
            Place::Temporary => of.temporary.clone(),
        };
        let from = open_readable(build, &Relative::new(&path)?)?;
        let logs = open_readable(build, &Relative::new(&of.logs)?)?;
        // The launcher may write where nobody else may, and who says where is the half
        // that is not trusted: the command itself must have been able to.
        if fstat(&logs)?.st_mode & libc::S_IWOTH == 0 {
            return Err(Errno::EACCES);
        }
        let found: Vec<_> = match &self.names {
            Names::One(name) => vec![CString::new(&name[..]).map_err(|_| Errno::EINVAL)?],
            Names::Beginning(beginning) => names(&from, beginning)?,
        };
        let dumps = found.iter().filter(|name| is_dump(&from, name));
        for name in dumps.take(MOST_DUMPS) {
            let flags = RenameFlags::RENAME_NOREPLACE;
            match renameat2(&from, &name[..], &logs, &name[..], flags) {
                Ok(()) | Err(Errno::EEXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

/// The names in a directory, of the first ones, that begin so.
fn names(directory: &OwnedFd, beginning: &[u8]) -> nix::Result<Vec<CString>> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC;
    let mut listing = Dir::openat(directory, c".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in listing.iter().take(MOST_NAMES) {
        let entry = entry?;
        if entry.file_name().to_bytes().starts_with(beginning) {
            names.push(entry.file_name().to_owned());
        }
    }
    Ok(names)
}

/// Whether a file is what the kernel writes of a process (`elf(5)`, `ET_CORE`).
fn is_dump(directory: &OwnedFd, name: &CStr) -> bool {
    let header = || -> Option<[u8; 18]> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let file = openat(directory.as_fd(), name, flags, Mode::empty()).ok()?;
        let stat = fstat(&file).ok()?;
        // The kernel dumps to no file that has several names.
        if stat.st_mode & libc::S_IFMT != libc::S_IFREG || stat.st_nlink != 1 {
            return None;
        }
        let mut header = [0; 18];
        File::from(file).read_exact(&mut header).ok()?;
        Some(header)
    };
    header().is_some_and(|header| {
        header.starts_with(b"\x7fELF")
            && u16::from_ne_bytes([header[16], header[17]]) == libc::ET_CORE
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    #[test]
    fn patterns_say_where_dumps_are() {
        let of = |text: &str, with_pid| Pattern::of(text.as_bytes(), with_pid);
        let working = |names| {
            Some(Pattern {
                place: Place::WorkingDirectory,
                names,
            })
        };
        assert_eq!(of("core", false), working(Names::One(b"core".into())));
        let beginning = |text: &str| Names::Beginning(text.into());
        assert_eq!(of("core", true), working(beginning("core.")));
        assert_eq!(of("core.%e.%p", false), working(beginning("core.")));
        assert_eq!(of("%e", false), working(beginning("")));
        let temporary = Pattern {
            place: Place::Temporary,
            names: beginning("core-"),
        };
        assert_eq!(of("/tmp/core-%p", false), Some(temporary));
        for elsewhere in [
            "",
            "|/usr/lib/systemd/systemd-coredump %P",
            "@@/run/dumps.socket",
            "/var/crash/core",
            "/tmp/dumps/core",
            "dumps/core",
        ] {
            assert_eq!(of(elsewhere, false), None, "{elsewhere}");
        }
    }

    #[test]
    fn only_dumps_are_moved() {
        let folder = std::env::temp_dir().join(format!("sandbox-core-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        for name in ["root/sub", "logs"] {
            std::fs::create_dir_all(folder.join(name)).unwrap();
        }
        let mut dump = [0; 64];
        dump[..4].copy_from_slice(b"\x7fELF");
        dump[16..18].copy_from_slice(&libc::ET_CORE.to_ne_bytes());
        let mut program = dump;
        program[16..18].copy_from_slice(&libc::ET_EXEC.to_ne_bytes());
        let write = |name: &str, bytes: &[u8]| {
            std::fs::write(folder.join("root/sub").join(name), bytes).unwrap();
        };
        write("core.1", &dump);
        write("core.2", &dump);
        write("core.program", &program);
        write("core.text", b"\x7fELF");
        write("other", &dump);
        std::fs::create_dir(folder.join("root/sub/core.d")).unwrap();
        symlink("other", folder.join("root/sub/core.link")).unwrap();
        std::fs::write(folder.join("logs/core.2"), "kept").unwrap();
        let permit = |mode| {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(folder.join("logs"), mode).unwrap();
        };
        let build = OwnedFd::from(File::open(&folder).unwrap());
        let of = Directories {
            written: b"root".into(),
            working: b"sub".into(),
            temporary: Vec::new(),
            logs: b"logs".into(),
        };
        let pattern = Pattern::of(b"core.%p", false).unwrap();
        permit(0o755);
        let refused = pattern.collect(build.as_fd(), &of);
        assert_eq!(refused, Err(Errno::EACCES));
        assert!(folder.join("root/sub/core.1").exists());
        permit(0o777);
        assert_eq!(pattern.collect(build.as_fd(), &of), Ok(()));
        assert_eq!(std::fs::read(folder.join("logs/core.1")).unwrap(), dump);
        assert_eq!(std::fs::read(folder.join("logs/core.2")).unwrap(), b"kept");
        assert_eq!(std::fs::read_dir(folder.join("logs")).unwrap().count(), 2);
        assert!(folder.join("root/sub/core.program").exists());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

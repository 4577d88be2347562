//! What the service half gives up before it serves.

use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;
use nix::unistd::{Gid, Pid, geteuid, getppid, setgroups};

use crate::client::Client;
use crate::message::Reply;
use crate::plan::Plan;
use crate::policy::Protection;
use crate::split::ServiceHalf;
use crate::{landlock, seccomp, sys};

/// Ids, capabilities, descriptors, memory. `launcher` is the parent.
pub(crate) fn give_up_privileges(
    half: &ServiceHalf,
    client: &Client,
    launcher: Pid,
) -> nix::Result<()> {
    let mut keep = half.keep.clone();
    keep.push(client.as_raw_fd());
    sys::close_all_but(&keep)?;
    if geteuid().is_root() {
        sys::empty_bounding_set()?;
        setgroups(&[Gid::from_raw(half.gid)])?;
        sys::take_ids(half.uid, half.gid)?;
    }
    sys::set_capabilities(sys::Capabilities::default())?;
    sys::prctl(libc::PR_SET_NO_NEW_PRIVS, 1)?;
    sys::prctl(libc::PR_SET_DUMPABLE, 0)?;
    // After the ids, whose change clears it. The launcher may have died before.
    sys::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL as libc::c_ulong)?;
    if getppid() != launcher {
        return Err(Errno::ESRCH);
    }
    Ok(())
}

/// The file system and dangerous system calls, as far as the plan found that
/// the host can.
pub(crate) fn lock_down(plan: &Plan) -> nix::Result<()> {
    if plan.holds(Protection::LandlockFiles) {
        landlock::forbid_all_files()?;
    }
    if plan.holds(Protection::Seccomp) {
        let program = seccomp::service_program(std::process::id()).map_err(|_| Errno::EINVAL)?;
        sys::set_seccomp(&program)?;
    }
    Ok(())
}

/// Waits until the launcher is ready; `false` when it failed to start.
pub(crate) fn wait_for_launcher(client: &Client) -> bool {
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    loop {
        match client.receive() {
            Ok(reply) => return reply == Reply::Started,
            Err(crate::ClientError::Io(error))
                if error.kind() == std::io::ErrorKind::WouldBlock =>
            {
                let mut waited = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
                // Interrupted: look again.
                let _ = poll(&mut waited, PollTimeout::NONE);
            }
            Err(_) => return false,
        }
    }
}

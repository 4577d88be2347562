//! Who goes first when processors are short (`setpriority(2)`).
//!
//! A command that is to start goes before the sandboxes that are prepared for later
//! ones, and before those that are being taken down: these give way, by some steps of
//! niceness and not by all, since they take locks of the kernel that commands need too.

use nix::unistd::Pid;

use crate::sys;

/// Lets a process raise its own or another's urgency again (`capabilities(7)`).
const CAP_SYS_NICE: u32 = 23;

/// How many steps what gives way does: about a tenth of the share.
const STEPS: i32 = 10;

/// The niceness of the launcher, which is that of commands.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Urgency {
    commands: i32,
    /// Whether a process that gave way can be made to go first again.
    raises: bool,
}

impl Urgency {
    /// As this process has it.
    pub(crate) fn own() -> nix::Result<Self> {
        Ok(Self {
            commands: sys::niceness()?,
            raises: sys::capabilities()?.effective >> CAP_SYS_NICE & 1 == 1,
        })
    }

    /// This process, a sandbox that nobody waits for yet or the launcher while it makes
    /// one, gives way; not where it could not be called back.
    pub(crate) fn wait_for_command(self) {
        if self.raises {
            self.give_way();
        }
    }

    /// This process, the launcher, goes on with what somebody waits for.
    pub(crate) fn go_first(self) {
        if self.raises {
            let _ = sys::set_niceness(None, self.commands);
        }
    }

    /// This process has nothing left to do but to leave.
    pub(crate) fn give_way(self) {
        // Best effort, as all of this: it only takes longer otherwise.
        let _ = sys::set_niceness(None, (self.commands + STEPS).min(19));
    }

    /// A sandbox has a command, or one waits for it.
    pub(crate) fn call(self, sandbox: Pid) {
        if self.raises {
            let _ = sys::set_niceness(Some(sandbox), self.commands);
        }
    }
}

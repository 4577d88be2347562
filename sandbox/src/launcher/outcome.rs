//! What becomes of sandboxes, and of the runs in them.

use std::os::fd::AsFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;

use super::{Launcher, PAUSE, failed};
use crate::cgroup::Cgroup;
use crate::command::is_fault_of_command;
use crate::done::End;
use crate::message::{Failure, FailureKind, Reply};
use crate::rejection::text;
use crate::report::{Report, StepFailure};
use crate::sandbox::{Running, Sandbox, State};
use crate::split::Error;
use crate::step::{Phase, Step};
use crate::{core_dump, rlimits, sys};

impl Launcher<'_> {
    /// Takes a report; when it says that all but init is dead and reaped, the
    /// run is answered. Init itself takes longer to leave (the kernel takes its
    /// mounts down), and nothing of the command's is in it.
    pub(super) fn take_report(&mut self, index: usize) {
        let Some(sandbox) = self.sandboxes.get_mut(index) else {
            return;
        };
        sandbox.take_report();
        if let Some(Report::Ended { status, usage }) = sandbox.last
            && let State::Running(running) = &mut sandbox.state
        {
            running.clean();
            let told = sandbox.cgroup.as_ref().map(Cgroup::told);
            let done = running.done(End::of(status), usage, told.unwrap_or_default());
            if status != 0
                && let Some(directories) = running.directions.core_dumps()
            {
                let (proc, build) = (self.shared.proc.as_fd(), self.build.as_fd());
                core_dump::collect(proc, build, &directories);
            }
            self.replies.push_back(done);
            sandbox.state = State::Leaving;
        }
    }

    /// A sandbox's init is dead: reaps it, and answers its run if need be.
    pub(super) fn reap(&mut self, mut sandbox: Sandbox) -> Result<(), Error> {
        while sandbox.take_report() {}
        let (_, usage) = sys::wait_with_usage(sandbox.pid).map_err(failed("reap a sandbox"))?;
        self.ids.give_back(sandbox.host_id);
        if let (Some(networks), Some(network)) = (&mut self.networks, sandbox.network.take()) {
            networks.give_back(network);
        }
        let reported = sandbox.last.take();
        let mut running = match sandbox.state {
            State::Running(running) => running,
            State::Leaving => return Ok(()),
            State::Preparing | State::Ready => {
                let failure = match reported {
                    Some(Report::Failed(failure)) => Some(failure),
                    _ => None,
                };
                return self.not_prepared(failure);
            }
        };
        running.clean();
        let told = sandbox.cgroup.as_ref().map(Cgroup::told);
        let told = told.unwrap_or_default();
        let id = running.id;
        let reply = match (reported, running.killed) {
            (Some(Report::Ended { status, usage }), _) => {
                running.done(End::of(status), usage, told)
            }
            (Some(Report::Failed(step)), _) => Reply::Failed {
                id,
                failure: self.failure(&step, &running),
            },
            // Init's own use is in it, since it could not say what it was.
            (_, Some(end)) => running.done(end, rlimits::usage(&usage), told),
            // The kernel killed all of its group.
            (_, None) if told.out_of_memory => {
                running.done(End::Signaled(libc::SIGKILL), rlimits::usage(&usage), told)
            }
            (_, None) => Reply::Failed {
                id,
                failure: Failure {
                    kind: FailureKind::Sandbox,
                    step: "keep the sandbox alive".to_owned(),
                    errno: 0,
                    detail: "its init was killed from outside, or for lack of memory".to_owned(),
                },
            },
        };
        self.replies.push_back(reply);
        Ok(())
    }

    /// A sandbox died before it had a command.
    pub(super) fn not_prepared(&mut self, failure: Option<StepFailure>) -> Result<(), Error> {
        let (step, errno) = match &failure {
            Some(failure) => (self.step_name(failure), failure.errno),
            None => ("stay alive".to_owned(), Errno::UnknownErrno),
        };
        if !self.started {
            return Err(Error::FirstSandbox {
                step,
                source: errno.into(),
            });
        }
        self.pause_until = Some(Instant::now() + PAUSE);
        // While there is another sandbox, or will be, whoever waits goes on waiting.
        let hope = self
            .sandboxes
            .iter()
            .any(|sandbox| !matches!(sandbox.state, State::Leaving));
        if !hope && let Some(order) = self.orders.pop_front() {
            let failure = Failure {
                kind: FailureKind::Sandbox,
                step,
                errno: errno as i32,
                detail: "no sandbox could be made".to_owned(),
            };
            let id = order.id;
            self.replies.push_back(Reply::Failed { id, failure });
        }
        Ok(())
    }

    fn step_name(&self, failure: &StepFailure) -> String {
        self.shared
            .plan
            .steps(failure.phase)
            .get(failure.step)
            .map_or_else(|| failure.phase.to_string(), ToString::to_string)
    }

    fn failure(&self, failed: &StepFailure, running: &Running) -> Failure {
        let step = self.shared.plan.steps(failed.phase).get(failed.step);
        let of_command = failed.phase == Phase::Command
            && step.is_some_and(|step| is_fault_of_command(step, failed.errno));
        Failure {
            kind: if of_command {
                FailureKind::Command
            } else {
                FailureKind::Sandbox
            },
            step: self.step_name(failed),
            errno: failed.errno as i32,
            detail: match step {
                Some(Step::Execute) if !failed.detail.is_empty() => failed.detail.clone(),
                Some(Step::Execute) => running.directions.program.clone(),
                Some(Step::WorkingDirectory) => text(&running.directions.working_directory),
                _ => String::new(),
            },
        }
    }
}

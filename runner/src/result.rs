//! What a command that ran tells its caller.

use nix::sys::signal::Signal;
use proto::messages;
use proto::wire::protobuf::Any;
use proto::wire::resourceusage::PosixResourceUsage;
use proto::wire::runner_extension::{PeakUsage, Termination, termination::Reason};
use sandbox::{Done, End, Limits};

use crate::error::Error;

/// The signal that ends a command whose time is over.
const TIMEOUT_SIGNAL: i32 = Signal::SIGKILL as i32;

/// The exit code of a command that ended by itself or by its timeout.
///
/// A command that a signal ended has 128 and the signal's number, as a shell
/// says it (POSIX, Shell Command Language 2.8.2): an action is a command that a
/// shell could have run. Bazel reads 129 to 191 as signals (its `TerminationStatus`)
/// and says which. Buildbarn's runner gives -1 for every signal, which tells a
/// client nothing. The signal's name travels in the resource usage, as Buildbarn's
/// does.
pub(crate) fn exit_code(end: End) -> Result<i64, Error> {
    match end {
        End::Exited(code) => Ok(code.into()),
        End::Signaled(signal) => Ok(128 + i64::from(signal)),
        End::TimedOut => Ok(128 + i64::from(TIMEOUT_SIGNAL)),
        End::Killed => Err(Error::Killed),
    }
}

/// Why the command ended, and how long it took. `limits` are those that it had.
pub(crate) fn termination(done: &Done, limits: &Limits) -> Termination {
    let reason = match (done.end, done.exceeded) {
        (_, Some(_)) => Reason::LimitExceeded,
        (End::Exited(_), None) => Reason::Exited,
        (End::Signaled(_) | End::Killed, None) => Reason::Signaled,
        (End::TimedOut, None) => Reason::TimedOut,
    };
    let limit = done.exceeded;
    Termination {
        reason: reason.into(),
        wall_time: Some(messages::duration(done.duration)),
        limit: limit.map_or_else(String::new, |limit| limit.name().to_owned()),
        limit_value: limit.and_then(|limit| limits[limit]).unwrap_or(0),
    }
}

/// What the command used, as Buildbarn says it.
pub(crate) fn resource_usage(done: &Done) -> Vec<Any> {
    let number = |value| i64::try_from(value).unwrap_or(i64::MAX);
    let usage = &done.usage;
    let usage = PosixResourceUsage {
        user_time: Some(messages::duration(usage.user_time)),
        system_time: Some(messages::duration(usage.system_time)),
        maximum_resident_set_size: number(usage.maximum_resident_set_size),
        page_reclaims: number(usage.page_reclaims),
        page_faults: number(usage.page_faults),
        block_input_operations: number(usage.block_input_operations),
        block_output_operations: number(usage.block_output_operations),
        voluntary_context_switches: number(usage.voluntary_context_switches),
        involuntary_context_switches: number(usage.involuntary_context_switches),
        termination_signal: match done.end {
            End::Exited(_) => String::new(),
            End::Signaled(signal) => signal_name(signal),
            End::TimedOut | End::Killed => signal_name(TIMEOUT_SIGNAL),
        },
        // Linux does not maintain the others (getrusage(2)).
        ..Default::default()
    };
    let used = done.peak.iter();
    let peak = PeakUsage {
        used: used
            .map(|(limit, value)| (limit.name().to_owned(), value))
            .collect(),
    };
    vec![messages::pack(&usage), messages::pack(&peak)]
}

/// A signal's name without `SIG`; its number where it has none (real-time signals).
fn signal_name(signal: i32) -> String {
    Signal::try_from(signal).map_or_else(
        |_| signal.to_string(),
        |known| known.as_str().trim_start_matches("SIG").to_owned(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sandbox::{Limit, Usage};
    use std::time::Duration;

    fn done(end: End) -> Done {
        Done {
            id: 1,
            end,
            usage: Usage {
                user_time: Duration::from_millis(1500),
                maximum_resident_set_size: 4096,
                page_reclaims: u64::MAX,
                ..Usage::default()
            },
            exceeded: None,
            peak: Limits::none(),
            duration: Duration::from_secs(2),
        }
    }

    fn usage(end: End) -> PosixResourceUsage {
        let any = resource_usage(&done(end)).remove(0);
        messages::unpack(&any, "buildbarn.resourceusage.POSIXResourceUsage").unwrap()
    }

    #[test]
    fn exit_codes_are_a_shell_s() {
        assert_eq!(exit_code(End::Exited(3)).unwrap(), 3);
        assert_eq!(exit_code(End::Signaled(11)).unwrap(), 139);
        assert_eq!(exit_code(End::TimedOut).unwrap(), 137);
        assert!(matches!(exit_code(End::Killed), Err(Error::Killed)));
    }

    #[test]
    fn signals_have_names() {
        assert_eq!(usage(End::Exited(0)).termination_signal, "");
        assert_eq!(usage(End::Signaled(11)).termination_signal, "SEGV");
        assert_eq!(usage(End::Signaled(40)).termination_signal, "40");
        assert_eq!(usage(End::TimedOut).termination_signal, "KILL");
    }

    #[test]
    fn the_limit_that_was_met_is_named() {
        let mut met = done(End::Signaled(9));
        met.exceeded = Some(Limit::Memory);
        met.peak[Limit::Memory] = Some(8);
        let mut limits = Limits::none();
        limits[Limit::Memory] = Some(7);
        let termination = termination(&met, &limits);
        assert_eq!(termination.reason(), Reason::LimitExceeded);
        assert_eq!(
            (&termination.limit[..], termination.limit_value),
            ("memory_bytes", 7)
        );
        let peak = resource_usage(&met).remove(1);
        let peak: PeakUsage = messages::unpack(&peak, "hayloft.runner.v1.PeakUsage").unwrap();
        assert_eq!(peak.used["memory_bytes"], 8);
    }

    #[test]
    fn usage_and_reason_are_carried() {
        let usage = usage(End::Exited(0));
        assert_eq!(usage.maximum_resident_set_size, 4096);
        assert_eq!(usage.page_reclaims, i64::MAX);
        assert_eq!(usage.user_time.unwrap().nanos, 500_000_000);
        let reason = |end| termination(&done(end), &Limits::none()).reason();
        assert_eq!(reason(End::Exited(1)), Reason::Exited);
        assert_eq!(reason(End::Signaled(9)), Reason::Signaled);
        assert_eq!(reason(End::TimedOut), Reason::TimedOut);
        let wall = termination(&done(End::TimedOut), &Limits::none())
            .wall_time
            .unwrap();
        assert_eq!(wall.seconds, 2);
    }
}

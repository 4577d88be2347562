//! How long an action may run.

use std::time::Duration;

use proto::messages;
use proto::wire::protobuf;

/// The scheduler's bounds on the timeouts of actions.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// For actions that name none.
    pub default: Duration,
    /// The longest one that is accepted.
    pub maximum: Duration,
}

/// Why an action's timeout is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TimeoutError {
    /// Negative, or with nanoseconds out of range.
    #[error(
        "action's timeout of {seconds} s and {nanos} ns is negative or not a well-formed duration"
    )]
    Malformed {
        /// As the action gives it.
        seconds: i64,
        /// As the action gives it.
        nanos: i32,
    },
    /// Longer than allowed.
    #[error("action's timeout of {} s exceeds the maximum of {} s", .timeout.as_secs_f64(), .maximum.as_secs_f64())]
    TooLong {
        /// As the action gives it.
        timeout: Duration,
        /// The most this scheduler accepts.
        maximum: Duration,
    },
}

impl Timeouts {
    /// The timeout to run an action with. Workers get it in every action, so
    /// that none of them needs a default of its own. Zero, in which nothing could
    /// run, is taken for a field that was filled in without a value.
    ///
    /// # Errors
    /// See [`TimeoutError`].
    pub fn of(&self, timeout: Option<&protobuf::Duration>) -> Result<Duration, TimeoutError> {
        let Some(wire) = timeout else {
            return Ok(self.default);
        };
        let timeout = messages::span(wire).ok_or(TimeoutError::Malformed {
            seconds: wire.seconds,
            nanos: wire.nanos,
        })?;
        if timeout > self.maximum {
            return Err(TimeoutError::TooLong {
                timeout,
                maximum: self.maximum,
            });
        }
        if timeout.is_zero() {
            return Ok(self.default);
        }
        Ok(timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMEOUTS: Timeouts = Timeouts {
        default: Duration::from_secs(1800),
        maximum: Duration::from_secs(7200),
    };

    fn of(seconds: i64, nanos: i32) -> Result<Duration, TimeoutError> {
        TIMEOUTS.of(Some(&protobuf::Duration { seconds, nanos }))
    }

    #[test]
    fn absent_and_zero_timeouts_become_the_default() {
        assert_eq!(TIMEOUTS.of(None), Ok(TIMEOUTS.default));
        assert_eq!(of(0, 0), Ok(TIMEOUTS.default));
    }

    #[test]
    fn timeouts_up_to_the_maximum_are_kept() {
        assert_eq!(of(0, 1), Ok(Duration::from_nanos(1)));
        assert_eq!(of(7200, 0), Ok(TIMEOUTS.maximum));
        assert_eq!(
            of(7200, 1).unwrap_err().to_string(),
            "action's timeout of 7200.000000001 s exceeds the maximum of 7200 s"
        );
    }

    #[test]
    fn negative_and_malformed_timeouts_are_refused() {
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000), (i64::MIN, 0)] {
            assert_eq!(
                of(seconds, nanos),
                Err(TimeoutError::Malformed { seconds, nanos })
            );
        }
    }
}

//! What a sandbox's init tells the launcher, each one datagram.

use nix::errno::Errno;

use crate::done::Usage;
use crate::message::MessageError;
use crate::rejection::text;
use crate::step::Phase;
use crate::wire::{Reader, Writer};

/// `prepared → (failed | ended)`, or `failed` at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Report {
    /// Every step of [`Phase::Prepare`] is done.
    Prepared,
    /// A step failed; init leaves.
    Failed(StepFailure),
    /// The command ended, everything it left was killed and reaped.
    Ended {
        /// As `waitpid(2)` gives it.
        status: i32,
        /// Of everything that ran inside.
        usage: Usage,
    },
}

/// A step of the plan that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StepFailure {
    pub(crate) phase: Phase,
    /// Its index among the phase's steps.
    pub(crate) step: usize,
    pub(crate) errno: Errno,
    /// The file it is about, where init knows better than the launcher; at most
    /// [`DETAIL_BYTES`] of it travel.
    pub(crate) detail: String,
}

const DETAIL_BYTES: usize = 2048;

const PREPARED: u32 = 1;
const FAILED: u32 = 2;
const ENDED: u32 = 3;

impl Report {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        match self {
            Self::Prepared => {
                writer.u32(PREPARED);
            }
            Self::Failed(failure) => {
                let phase = Phase::ALL.iter().position(|p| *p == failure.phase);
                writer
                    .u32(FAILED)
                    .count(phase.unwrap_or_default())
                    .count(failure.step)
                    .i32(failure.errno as i32);
                let detail = failure.detail.as_bytes();
                writer.bytes(&detail[..detail.len().min(DETAIL_BYTES)]);
            }
            Self::Ended { status, usage } => {
                writer.u32(ENDED).i32(*status);
                usage.write(&mut writer);
            }
        }
        writer.finish()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let index = |value| usize::try_from(value).unwrap_or(usize::MAX);
        let report = match reader.u32("report")? {
            PREPARED => Self::Prepared,
            FAILED => {
                let phase = reader.u64("phase")?;
                Self::Failed(StepFailure {
                    phase: *Phase::ALL.get(index(phase)).ok_or(MessageError::Unknown {
                        field: "phase",
                        value: phase,
                    })?,
                    step: index(reader.u64("step")?),
                    errno: Errno::from_raw(reader.i32("errno")?),
                    detail: text(reader.bytes("detail")?),
                })
            }
            ENDED => Self::Ended {
                status: reader.i32("status")?,
                usage: Usage::read(&mut reader)?,
            },
            value => {
                return Err(MessageError::Unknown {
                    field: "report",
                    value: value.into(),
                });
            }
        };
        reader.end()?;
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_round_trip() {
        for report in [
            Report::Prepared,
            Report::Failed(StepFailure {
                phase: Phase::Command,
                step: 7,
                errno: Errno::ENOENT,
                detail: "a".to_owned(),
            }),
            Report::Ended {
                status: 256,
                usage: Usage::default(),
            },
        ] {
            assert_eq!(Report::decode(&report.encode()), Ok(report));
        }
        assert!(Report::decode(&[9, 0, 0, 0]).is_err());
    }
}

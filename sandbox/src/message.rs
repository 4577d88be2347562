//! What crosses the socket between the two halves.
//!
//! Each message is one datagram of a `SOCK_SEQPACKET` socket pair: a header of
//! 24 bytes (`kind: u32, reserved: u32, id: u64, length: u64`, little endian)
//! and a body. The body of [`Request::Run`] exceeds what a datagram can carry,
//! so it lies in a sealed memfd of `length` bytes that travels with the header;
//! every other body follows the header. Decoding checks every length against
//! what is there, and a text that holds a NUL byte is refused.
//!
//! The service half chooses the ids; one that is in use is refused.

use thiserror::Error;

use crate::done::Done;
use crate::wire::{Reader, Writer};

/// Most bytes of one datagram.
pub const DATAGRAM_BYTES: usize = 8192;
/// Most bytes of a run request: far above what `execve(2)` accepts (a quarter
/// of the stack limit, at most 6 MiB).
pub const RUN_BYTES: u64 = 16 << 20;
/// Most bytes of a path, as `PATH_MAX`.
pub const PATH_BYTES: usize = 4096;

/// Why bytes are no message, or a value cannot become one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MessageError {
    /// The bytes end inside a field.
    #[error("message is truncated in {0}")]
    Truncated(&'static str),
    /// Bytes follow the last field.
    #[error("message has {0} bytes too many")]
    Trailing(usize),
    /// A field exceeds its limit.
    #[error("{field} is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// Which field.
        field: &'static str,
        /// Its length.
        length: u64,
        /// Its limit.
        limit: u64,
    },
    /// A text holds a NUL byte.
    #[error("{0} holds a NUL byte")]
    Nul(&'static str),
    /// A variable's name is empty or holds `=`.
    #[error("environment variable name is empty or holds an equals sign")]
    VariableName,
    /// There is no argument at all.
    #[error("arguments are empty")]
    NoArguments,
    /// A value that the field does not know.
    #[error("{field} has the unknown value {value}")]
    Unknown {
        /// Which field.
        field: &'static str,
        /// Its value.
        value: u64,
    },
    /// The memfd is missing, not sealed, or not of the announced length.
    #[error("request memory is missing, not sealed or of another length than announced")]
    Memory,
}

/// What the service half asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Run a command; answered by [`Reply::Done`] or [`Reply::Failed`] when
    /// every process of it is gone. The [`RunRequest`](crate::RunRequest) is in the memfd, whose
    /// length this is.
    Run {
        /// Chosen by the service half.
        id: u64,
        /// Bytes in the memfd.
        length: u64,
    },
    /// End the run of this id now. It is answered as every run, with
    /// [`End::Killed`](crate::End::Killed); an unknown id is ignored (it has just ended).
    Kill {
        /// Of a run.
        id: u64,
    },
    /// Make what commands left in this directory (relative to the build
    /// directory) accessible to the worker; answered by [`Reply::Reclaimed`].
    Reclaim {
        /// Chosen by the service half.
        id: u64,
        /// Directory.
        path: Vec<u8>,
    },
    /// Whether this path (relative to the build directory; empty: that itself)
    /// exists, as by `lstat(2)`; answered by [`Reply::Checked`] or, when it
    /// does not, [`Reply::Failed`].
    CheckPath {
        /// Chosen by the service half.
        id: u64,
        /// Path.
        path: Vec<u8>,
    },
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The command could not be executed: `argv[0]` is missing, not
    /// executable or of no known format, or the working directory is missing.
    Command,
    /// A path of the request is not acceptable, or an id is in use.
    Request,
    /// The sandbox could not be made or used.
    Sandbox,
}

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{step}: {detail}: {}", errno_text(*.errno))]
pub struct Failure {
    /// Whose fault it is.
    pub kind: FailureKind,
    /// What was being done, a few words.
    pub step: String,
    /// `errno(3)`; 0 where none applies.
    pub errno: i32,
    /// The path or thing it was done to.
    pub detail: String,
}

/// What the launcher half answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The launcher is ready; sent once, before anything else.
    Started,
    /// A command ran.
    Done(Box<Done>),
    /// A request was not carried out.
    Failed {
        /// Of the request.
        id: u64,
        /// Why.
        failure: Failure,
    },
    /// A directory was reclaimed.
    Reclaimed {
        /// Of the request.
        id: u64,
        /// How many files and directories had their mode changed.
        changed: u64,
    },
    /// A path exists.
    Checked {
        /// Of the request.
        id: u64,
    },
}

fn errno_text(errno: i32) -> String {
    if errno == 0 {
        "refused".to_owned()
    } else {
        std::io::Error::from_raw_os_error(errno).to_string()
    }
}

const RUN: u32 = 1;
const KILL: u32 = 2;
const RECLAIM: u32 = 3;
const CHECK_PATH: u32 = 4;
const STARTED: u32 = 16;
const DONE: u32 = 17;
const FAILED: u32 = 18;
const RECLAIMED: u32 = 19;
const CHECKED: u32 = 20;

fn header(kind: u32, id: u64, length: u64) -> Writer {
    let mut writer = Writer::default();
    writer.u32(kind).u32(0).u64(id).u64(length);
    writer
}

fn read_header(reader: &mut Reader<'_>) -> Result<(u32, u64, u64), MessageError> {
    let kind = reader.u32("kind")?;
    match reader.u32("reserved field")? {
        0 => Ok((kind, reader.u64("id")?, reader.u64("length")?)),
        value => Err(MessageError::Unknown {
            field: "reserved field",
            value: value.into(),
        }),
    }
}

/// Only what has no form of its own says how long it is.
fn no_body(length: u64) -> Result<(), MessageError> {
    match length {
        0 => Ok(()),
        value => Err(MessageError::Unknown {
            field: "length",
            value,
        }),
    }
}

pub(crate) fn check(field: &'static str, text: &[u8], limit: usize) -> Result<(), MessageError> {
    if text.len() > limit {
        return Err(MessageError::TooLong {
            field,
            length: text.len() as u64,
            limit: limit as u64,
        });
    }
    if text.contains(&0) {
        return Err(MessageError::Nul(field));
    }
    Ok(())
}

impl Request {
    /// As a datagram.
    ///
    /// # Errors
    /// A path with NUL or too long.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        let with_path = |kind, id: u64, path: &Vec<u8>| {
            check("path", path, PATH_BYTES)?;
            let mut writer = header(kind, id, path.len() as u64);
            writer.raw(path);
            Ok(writer.finish())
        };
        match self {
            Self::Run { id, length } => Ok(header(RUN, *id, *length).finish()),
            Self::Kill { id } => Ok(header(KILL, *id, 0).finish()),
            Self::Reclaim { id, path } => with_path(RECLAIM, *id, path),
            Self::CheckPath { id, path } => with_path(CHECK_PATH, *id, path),
        }
    }

    /// Of a datagram.
    ///
    /// # Errors
    /// Anything that [`encode`](Self::encode) does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let (kind, id, length) = read_header(&mut reader)?;
        let path = |reader: &mut Reader<'_>| {
            let length = usize::try_from(length).unwrap_or(usize::MAX);
            let path = reader.raw("path", length)?.to_vec();
            check("path", &path, PATH_BYTES)?;
            Ok(path)
        };
        let request = match kind {
            RUN if length > RUN_BYTES => {
                return Err(MessageError::TooLong {
                    field: "request",
                    length,
                    limit: RUN_BYTES,
                });
            }
            RUN => Self::Run { id, length },
            KILL => {
                no_body(length)?;
                Self::Kill { id }
            }
            RECLAIM => Self::Reclaim {
                id,
                path: path(&mut reader)?,
            },
            CHECK_PATH => Self::CheckPath {
                id,
                path: path(&mut reader)?,
            },
            value => {
                return Err(MessageError::Unknown {
                    field: "kind",
                    value: value.into(),
                });
            }
        };
        reader.end()?;
        Ok(request)
    }
}

impl Reply {
    /// As a datagram. Texts of a failure that exceed a datagram are cut.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let writer = match self {
            Self::Started => header(STARTED, 0, 0),
            Self::Done(done) => {
                let mut writer = header(DONE, done.id, 0);
                done.write(&mut writer);
                writer
            }
            Self::Failed { id, failure } => {
                let mut writer = header(FAILED, *id, 0);
                let kind = match failure.kind {
                    FailureKind::Command => 0,
                    FailureKind::Request => 1,
                    FailureKind::Sandbox => 2,
                };
                writer.u32(kind).i32(failure.errno);
                for text in [&failure.step, &failure.detail] {
                    writer.bytes(&text.as_bytes()[..text.len().min(2048)]);
                }
                writer
            }
            Self::Reclaimed { id, changed } => {
                let mut writer = header(RECLAIMED, *id, 0);
                writer.u64(*changed);
                writer
            }
            Self::Checked { id } => header(CHECKED, *id, 0),
        };
        writer.finish()
    }

    /// Of a datagram.
    ///
    /// # Errors
    /// Anything that [`encode`](Self::encode) does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let (kind, id, length) = read_header(&mut reader)?;
        no_body(length)?;
        let reply = match kind {
            STARTED => Self::Started,
            DONE => Self::Done(Box::new(Done::read(id, &mut reader)?)),
            FAILED => {
                let kind = match reader.u32("failure")? {
                    0 => FailureKind::Command,
                    1 => FailureKind::Request,
                    2 => FailureKind::Sandbox,
                    value => {
                        return Err(MessageError::Unknown {
                            field: "failure",
                            value: value.into(),
                        });
                    }
                };
                let errno = reader.i32("errno")?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                Self::Failed {
                    id,
                    failure: Failure {
                        kind,
                        errno,
                        step: text(reader.bytes("step")?),
                        detail: text(reader.bytes("detail")?),
                    },
                }
            }
            RECLAIMED => Self::Reclaimed {
                id,
                changed: reader.u64("changed")?,
            },
            CHECKED => Self::Checked { id },
            value => {
                return Err(MessageError::Unknown {
                    field: "kind",
                    value: value.into(),
                });
            }
        };
        reader.end()?;
        Ok(reply)
    }
}

#[cfg(test)]
#[path = "message_tests.rs"]
mod tests;

//! How a command ended, and what it used.

use std::time::Duration;

use crate::limits::{Limit, Limits};
use crate::message::MessageError;
use crate::wire::{Reader, Writer};

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It exited with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled(i32),
    /// Its timeout passed; all was killed, unless it ended within the time it was
    /// given for that.
    TimedOut,
    /// [`Request::Kill`](crate::Request::Kill) ended it.
    Killed,
}

impl End {
    /// Of a wait status as `waitpid(2)` gives it.
    pub(crate) fn of(status: libc::c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signaled(libc::WTERMSIG(status))
        } else {
            Self::Exited(libc::WEXITSTATUS(status))
        }
    }
}

/// Resources used by the command and all its descendants (`getrusage(2)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Usage {
    /// Time in user mode.
    pub user_time: Duration,
    /// Time in the kernel.
    pub system_time: Duration,
    /// Of the largest process, in bytes.
    pub maximum_resident_set_size: u64,
    /// Page faults without input.
    pub page_reclaims: u64,
    /// Page faults with input.
    pub page_faults: u64,
    /// 512-byte blocks read.
    pub block_input_operations: u64,
    /// 512-byte blocks written.
    pub block_output_operations: u64,
    /// Context switches by waiting.
    pub voluntary_context_switches: u64,
    /// Context switches by preemption.
    pub involuntary_context_switches: u64,
}

/// A command that ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Done {
    /// Of the request.
    pub id: u64,
    /// How it ended.
    pub end: End,
    /// The limit that it met and, as far as can be told, failed for.
    pub exceeded: Option<Limit>,
    /// What it used in all.
    pub usage: Usage,
    /// The most of each that it used at a time, as far as that is known.
    pub peak: Limits,
    /// From handing the command to its sandbox until all of it was gone.
    pub duration: Duration,
}

impl Usage {
    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.duration(self.user_time).duration(self.system_time);
        for value in [
            self.maximum_resident_set_size,
            self.page_reclaims,
            self.page_faults,
            self.block_input_operations,
            self.block_output_operations,
            self.voluntary_context_switches,
            self.involuntary_context_switches,
        ] {
            writer.u64(value);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        Ok(Self {
            user_time: reader.duration("user time")?,
            system_time: reader.duration("system time")?,
            maximum_resident_set_size: reader.u64("usage")?,
            page_reclaims: reader.u64("usage")?,
            page_faults: reader.u64("usage")?,
            block_input_operations: reader.u64("usage")?,
            block_output_operations: reader.u64("usage")?,
            voluntary_context_switches: reader.u64("usage")?,
            involuntary_context_switches: reader.u64("usage")?,
        })
    }
}

impl Done {
    pub(crate) fn write(&self, writer: &mut Writer) {
        let (end, value) = match self.end {
            End::Exited(code) => (0, code),
            End::Signaled(signal) => (1, signal),
            End::TimedOut => (2, 0),
            End::Killed => (3, 0),
        };
        let exceeded = self.exceeded.map_or(0, |limit| limit.number() + 1);
        writer.u32(end).i32(value).u32(exceeded);
        writer.duration(self.duration);
        self.usage.write(writer);
        self.peak.write(writer);
    }

    pub(crate) fn read(id: u64, reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let unknown = |field, value: u32| MessageError::Unknown {
            field,
            value: value.into(),
        };
        let end = reader.u32("end")?;
        let value = reader.i32("end")?;
        let end = match end {
            0 => End::Exited(value),
            1 => End::Signaled(value),
            2 => End::TimedOut,
            3 => End::Killed,
            end => return Err(unknown("end", end)),
        };
        let exceeded = match reader.u32("exceeded")?.checked_sub(1) {
            None => None,
            Some(number) => {
                let limit = Limit::from_number(number);
                Some(limit.ok_or_else(|| unknown("exceeded", number + 1))?)
            }
        };
        Ok(Self {
            id,
            end,
            exceeded,
            duration: reader.duration("duration")?,
            usage: Usage::read(reader)?,
            peak: Limits::read(reader)?,
        })
    }
}

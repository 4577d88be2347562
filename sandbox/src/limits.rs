//! Limits of one command, as plain data.

use std::fmt;
use std::ops::{Index, IndexMut};

use crate::message::MessageError;
use crate::wire::{Reader, Writer};

/// Something that a command may use only so much of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Limit {
    /// Memory of all its processes together, in bytes, directories in memory included.
    Memory,
    /// Processes and threads.
    Processes,
    /// Processor time, in thousandths of one processor.
    Cpu,
    /// What it writes below its input root and its temporary directory, in bytes
    /// on disk.
    DiskBytes,
    /// Files and directories that it makes there.
    DiskFiles,
    /// Its standard output, and as much its standard error, in bytes.
    Output,
    /// `/var/tmp`, and as much `/tmp` where no directory is given for it, in bytes.
    Tmpfs,
    /// `/dev/shm`, in bytes.
    Shm,
    /// Open files of one process (`RLIMIT_NOFILE`).
    OpenFiles,
    /// The largest file that a process may write, in bytes (`RLIMIT_FSIZE`).
    FileSize,
    /// The stack of a process's first thread, in bytes (`RLIMIT_STACK`, soft).
    Stack,
    /// A core dump, in bytes (`RLIMIT_CORE`).
    Core,
}

impl Limit {
    /// All, in the order in which they are listed to people.
    pub const ALL: [Self; 12] = [
        Self::Memory,
        Self::Processes,
        Self::Cpu,
        Self::DiskBytes,
        Self::DiskFiles,
        Self::Output,
        Self::Tmpfs,
        Self::Shm,
        Self::OpenFiles,
        Self::FileSize,
        Self::Stack,
        Self::Core,
    ];

    /// The name used in configuration files, requests and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory_bytes",
            Self::Processes => "processes",
            Self::Cpu => "cpu_millis",
            Self::DiskBytes => "disk_bytes",
            Self::DiskFiles => "disk_files",
            Self::Output => "output_bytes",
            Self::Tmpfs => "tmpfs_size_bytes",
            Self::Shm => "shm_size_bytes",
            Self::OpenFiles => "open_files",
            Self::FileSize => "file_size_bytes",
            Self::Stack => "stack_size_bytes",
            Self::Core => "core_size_bytes",
        }
    }

    /// The limit of that [`name`](Self::name).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.name() == name)
    }

    /// Whether nothing works with a limit of 0, or 0 would mean none.
    #[must_use]
    pub const fn is_positive(self) -> bool {
        !matches!(self, Self::FileSize | Self::Core | Self::Output)
    }

    pub(crate) fn number(self) -> u32 {
        self as u32
    }

    pub(crate) fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|limit| limit.number() == number)
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// For each [`Limit`] a value, or none: then as the runner has it.
///
/// Hard limits that the runner itself has are never exceeded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Limits([Option<u64>; Limit::ALL.len()]);

impl Limits {
    /// None.
    #[must_use]
    pub const fn none() -> Self {
        Self([None; Limit::ALL.len()])
    }

    /// What a command has where nothing else is said.
    #[must_use]
    pub fn usual() -> Self {
        let mut limits = Self::none();
        limits[Limit::Processes] = Some(4096);
        limits[Limit::Output] = Some(1 << 30);
        limits[Limit::Tmpfs] = Some(1 << 30);
        limits[Limit::Shm] = Some(1 << 30);
        limits[Limit::OpenFiles] = Some(65_536);
        limits[Limit::Stack] = Some(8 << 20);
        limits[Limit::Core] = Some(0);
        limits
    }

    /// Those that are set.
    pub fn iter(&self) -> impl Iterator<Item = (Limit, u64)> {
        Limit::ALL
            .into_iter()
            .filter_map(|limit| Some((limit, self[limit]?)))
    }

    /// These, with those that `asked` sets in their place.
    #[must_use]
    pub fn overridden(&self, asked: &Self) -> Self {
        let mut limits = self.clone();
        for (limit, value) in asked.iter() {
            limits[limit] = Some(value);
        }
        limits
    }

    /// The same within bounds. None may be more than
    /// `most` has, or, where that has none, than these have.
    ///
    /// # Errors
    /// The limit of which too much is asked, and how much there is.
    pub fn with(&self, asked: &Self, most: &Self) -> Result<Self, (Limit, u64)> {
        for (limit, value) in asked.iter() {
            if let Some(ceiling) = most[limit].or(self[limit])
                && value > ceiling
            {
                return Err((limit, ceiling));
            }
        }
        Ok(self.overridden(asked))
    }

    pub(crate) fn write(&self, writer: &mut Writer) {
        writer.count(self.iter().count());
        for (limit, value) in self.iter() {
            writer.u32(limit.number()).u64(value);
        }
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Result<Self, MessageError> {
        let mut limits = Self::none();
        for _ in 0..reader.count("limits")? {
            let number = reader.u32("limit")?;
            let unknown = MessageError::Unknown {
                field: "limit",
                value: number.into(),
            };
            let limit = Limit::from_number(number).ok_or(unknown)?;
            limits[limit] = Some(reader.u64("limit")?);
        }
        Ok(limits)
    }
}

impl Index<Limit> for Limits {
    type Output = Option<u64>;

    fn index(&self, limit: Limit) -> &Option<u64> {
        &self.0[limit as usize]
    }
}

impl IndexMut<Limit> for Limits {
    fn index_mut(&mut self, limit: Limit) -> &mut Option<u64> {
        &mut self.0[limit as usize]
    }
}

impl fmt::Display for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (limit, value)) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{limit} {value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(values: &[(Limit, u64)]) -> Limits {
        let mut limits = Limits::none();
        for (limit, value) in values {
            limits[*limit] = Some(*value);
        }
        limits
    }

    #[test]
    fn names_and_numbers_round_trip() {
        for (index, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(Limit::from_name(limit.name()), Some(limit));
            assert_eq!(Limit::from_number(limit.number()), Some(limit));
            assert_eq!(limit as usize, index);
        }
        assert_eq!(Limit::from_name("luck"), None);
    }

    #[test]
    fn requests_move_within_bounds() {
        let usual = of(&[(Limit::Memory, 100), (Limit::Processes, 10)]);
        let most = of(&[(Limit::Memory, 200)]);
        let asked = of(&[(Limit::Memory, 200), (Limit::Processes, 5), (Limit::Cpu, 1)]);
        let given = usual.with(&asked, &most).unwrap();
        assert_eq!(given, asked);
        let too_much = of(&[(Limit::Memory, 201)]);
        assert_eq!(usual.with(&too_much, &most), Err((Limit::Memory, 200)));
        // Where nothing is said about the most, the usual is that.
        let too_many = of(&[(Limit::Processes, 11)]);
        assert_eq!(usual.with(&too_many, &most), Err((Limit::Processes, 10)));
        assert_eq!(usual.with(&Limits::none(), &most), Ok(usual));
    }

    #[test]
    fn limits_cross_the_wire() {
        let limits = of(&[(Limit::Memory, u64::MAX), (Limit::Core, 0)]);
        let mut writer = Writer::default();
        limits.write(&mut writer);
        let bytes = writer.finish();
        let mut reader = Reader::new(&bytes);
        assert_eq!(Limits::read(&mut reader), Ok(limits));
        reader.end().unwrap();
        let mut unknown = Writer::default();
        unknown.count(1).u32(99).u64(1);
        let bytes = unknown.finish();
        assert!(Limits::read(&mut Reader::new(&bytes)).is_err());
    }
}

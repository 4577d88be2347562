//! The request to run one command, as it lies in a sealed memfd.

use std::time::Duration;

use crate::id_map::IdPair;
use crate::limits::Limits;
use crate::message::{MessageError, PATH_BYTES, RUN_BYTES, check};
use crate::wire::{Reader, Writer};

/// Runs one command in one sandbox.
///
/// All paths are relative to the build directory of the configuration
/// ([`crate::Config::build_directory`]), except `working_directory`, which is
/// relative to the input root. No path may be absolute, hold an empty
/// component, `..` or NUL; none of their components may be a symbolic link
/// (the working directory's may: it is resolved inside the sandbox).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunRequest {
    /// The command; never empty. With a slash in the first it is resolved from
    /// the working directory, else through `PATH` of `environment` inside the
    /// sandbox's root.
    pub arguments: Vec<Vec<u8>>,
    /// The environment, exactly.
    pub environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Relative to the input root; empty: the input root.
    pub working_directory: Vec<u8>,
    /// The directory that becomes `/build/root` or `/`.
    pub input_root_directory: Vec<u8>,
    /// Directories that the input root lies over, the first on top. With any, the
    /// input root is an overlay whose own topmost layer is `input_root_directory`:
    /// the command may change all of it, and changes go to `upper` in
    /// `scratch_directory`; nothing else of it is ever written to. Everything belongs
    /// to the owner of the build directory. Only where
    /// [`Client::overlays`](crate::Client::overlays) says so.
    pub lower_directories: Vec<Vec<u8>>,
    /// Holds the empty directory `upper`; empty: the input root is no overlay.
    pub scratch_directory: Vec<u8>,
    /// The directory that becomes `/tmp`; empty: an own, empty one in memory.
    pub temporary_directory: Vec<u8>,
    /// Created. Must not exist, or, with [`HostIds::Range`](crate::HostIds), be
    /// empty, of mode 0666, with one link, and not made by a command.
    pub stdout_path: Vec<u8>,
    /// As `stdout_path`; another than that.
    pub stderr_path: Vec<u8>,
    /// Where core dumps of the command are put, where its limit lets the kernel write
    /// any and as far as the host writes them to directories of the action; empty:
    /// nowhere.
    pub server_logs_directory: Vec<u8>,
    /// After this time from the start of the command everything is killed.
    pub timeout: Option<Duration>,
    /// The user and group that the command sees itself as, where not
    /// [`Policy::inner_id`](crate::Policy). Outside nothing differs.
    pub ids: Option<IdPair>,
    /// What it wants other than [`Policy::limits`](crate::Policy), within
    /// [`Policy::maximum_limits`](crate::Policy).
    pub limits: Limits,
}

impl RunRequest {
    /// As the bytes of the memfd.
    ///
    /// # Errors
    /// A text with NUL, an unusable variable name, no argument, too long.
    pub fn encode(&self) -> Result<Vec<u8>, MessageError> {
        self.validate()?;
        let mut writer = Writer::default();
        for path in [
            &self.working_directory,
            &self.input_root_directory,
            &self.temporary_directory,
            &self.stdout_path,
            &self.stderr_path,
            &self.scratch_directory,
            &self.server_logs_directory,
        ] {
            writer.bytes(path);
        }
        writer.count(self.lower_directories.len());
        for path in &self.lower_directories {
            writer.bytes(path);
        }
        match self.timeout {
            Some(timeout) => writer.u32(1).duration(timeout),
            None => writer.u32(0).duration(Duration::ZERO),
        };
        match self.ids {
            Some(ids) => writer.u32(1).u32(ids.uid).u32(ids.gid),
            None => writer.u32(0),
        };
        self.limits.write(&mut writer);
        writer.count(self.arguments.len());
        for argument in &self.arguments {
            writer.bytes(argument);
        }
        writer.count(self.environment.len());
        for (name, value) in &self.environment {
            writer.bytes(name).bytes(value);
        }
        let bytes = writer.finish();
        if bytes.len() as u64 > RUN_BYTES {
            return Err(MessageError::TooLong {
                field: "request",
                length: bytes.len() as u64,
                limit: RUN_BYTES,
            });
        }
        Ok(bytes)
    }

    /// Of the bytes of a memfd.
    ///
    /// # Errors
    /// Anything that [`encode`](Self::encode) does not produce.
    pub fn decode(bytes: &[u8]) -> Result<Self, MessageError> {
        let mut reader = Reader::new(bytes);
        let working_directory = reader.bytes("working directory")?.to_vec();
        let input_root_directory = reader.bytes("input root directory")?.to_vec();
        let temporary_directory = reader.bytes("temporary directory")?.to_vec();
        let stdout_path = reader.bytes("stdout path")?.to_vec();
        let stderr_path = reader.bytes("stderr path")?.to_vec();
        let scratch_directory = reader.bytes("scratch directory")?.to_vec();
        let server_logs_directory = reader.bytes("server logs directory")?.to_vec();
        let mut lower_directories = Vec::new();
        for _ in 0..reader.count("lower directories")? {
            lower_directories.push(reader.bytes("lower directory")?.to_vec());
        }
        let timed = reader.u32("timeout")?;
        let timeout = reader.duration("timeout")?;
        let timeout = match timed {
            0 => None,
            1 => Some(timeout),
            value => {
                return Err(MessageError::Unknown {
                    field: "timeout",
                    value: value.into(),
                });
            }
        };
        let ids = match reader.u32("ids")? {
            0 => None,
            1 => Some(IdPair {
                uid: reader.u32("user id")?,
                gid: reader.u32("group id")?,
            }),
            value => {
                return Err(MessageError::Unknown {
                    field: "ids",
                    value: value.into(),
                });
            }
        };
        let limits = Limits::read(&mut reader)?;
        let mut arguments = Vec::new();
        for _ in 0..reader.count("arguments")? {
            arguments.push(reader.bytes("argument")?.to_vec());
        }
        let mut environment = Vec::new();
        for _ in 0..reader.count("environment")? {
            let name = reader.bytes("environment variable name")?.to_vec();
            let value = reader.bytes("environment variable value")?.to_vec();
            environment.push((name, value));
        }
        reader.end()?;
        let request = Self {
            arguments,
            environment,
            working_directory,
            input_root_directory,
            lower_directories,
            scratch_directory,
            temporary_directory,
            stdout_path,
            stderr_path,
            server_logs_directory,
            timeout,
            ids,
            limits,
        };
        request.validate()?;
        Ok(request)
    }

    fn validate(&self) -> Result<(), MessageError> {
        let limit = usize::try_from(RUN_BYTES).unwrap_or(usize::MAX);
        check("working directory", &self.working_directory, PATH_BYTES)?;
        check(
            "input root directory",
            &self.input_root_directory,
            PATH_BYTES,
        )?;
        check("temporary directory", &self.temporary_directory, PATH_BYTES)?;
        check("stdout path", &self.stdout_path, PATH_BYTES)?;
        check("stderr path", &self.stderr_path, PATH_BYTES)?;
        check("scratch directory", &self.scratch_directory, PATH_BYTES)?;
        check(
            "server logs directory",
            &self.server_logs_directory,
            PATH_BYTES,
        )?;
        // One more is the input root directory itself.
        if self.lower_directories.len() >= crate::MOST_LAYERS {
            return Err(MessageError::TooLong {
                field: "lower directories",
                length: self.lower_directories.len() as u64,
                limit: crate::MOST_LAYERS as u64 - 1,
            });
        }
        for path in &self.lower_directories {
            check("lower directory", path, PATH_BYTES)?;
        }
        for id in self.ids.iter().flat_map(|ids| [ids.uid, ids.gid]) {
            // What stands for no id at all.
            if id == u32::MAX {
                return Err(MessageError::Unknown {
                    field: "ids",
                    value: id.into(),
                });
            }
        }
        if self.arguments.is_empty() {
            return Err(MessageError::NoArguments);
        }
        for argument in &self.arguments {
            check("argument", argument, limit)?;
        }
        for (name, value) in &self.environment {
            check("environment variable name", name, limit)?;
            check("environment variable value", value, limit)?;
            if name.is_empty() || name.contains(&b'=') {
                return Err(MessageError::VariableName);
            }
        }
        Ok(())
    }
}

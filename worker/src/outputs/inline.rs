//! What a client finds in the result itself, besides its digest (REv2
//! ExecuteRequest.inline_stdout and those after it).

use bytes::Bytes;
use proto::wire::action::Inline;
use proto::wire::rev2::{ActionResult, OutputFile};

use super::collect::Collected;

/// How much of all that is wanted is inlined: peers take messages of 4 MiB, and a
/// result has more in it. What has no room is there by its digest alone.
const ROOM: usize = 1 << 20;

/// Bytes to be put into a result. They go into the client's answer, not into the
/// action cache.
#[derive(Default)]
pub(crate) struct Inlined {
    stdout: Option<Bytes>,
    stderr: Option<Bytes>,
    /// By the position in the result's list of output files.
    files: Vec<(usize, Bytes)>,
}

impl Inlined {
    /// Takes what is wanted and small. `files` are the numbers of the result's
    /// output files, in order.
    pub(crate) fn new(
        wanted: &Inline,
        collected: &Collected,
        result: &ActionResult,
        files: &[usize],
    ) -> Self {
        let mut room = ROOM;
        let mut take = |wanted: bool, id: Option<usize>| {
            let bytes = collected.bytes(id.filter(|_| wanted)?)?;
            room = room.checked_sub(bytes.len())?;
            Some(bytes)
        };
        let stdout = take(wanted.stdout, collected.stdout);
        let stderr = take(wanted.stderr, collected.stderr);
        let is_wanted = |file: &OutputFile| wanted.output_files.contains(&file.path);
        let found = result.output_files.iter().zip(files).enumerate();
        let files = found.filter_map(|(position, (file, id))| {
            let bytes = take(is_wanted(file), Some(*id))?;
            Some((position, bytes))
        });
        let files = files.collect();
        Self {
            stdout,
            stderr,
            files,
        }
    }

    /// Puts them in.
    pub(crate) fn put(self, result: &mut ActionResult) {
        if let Some(bytes) = self.stdout {
            result.stdout_raw = bytes.into();
        }
        if let Some(bytes) = self.stderr {
            result.stderr_raw = bytes.into();
        }
        for (position, bytes) in self.files {
            if let Some(file) = result.output_files.get_mut(position) {
                file.contents = bytes.into();
            }
        }
    }
}

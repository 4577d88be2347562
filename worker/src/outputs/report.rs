//! The result's output fields.

use std::collections::HashMap;

use proto::DigestFunction;
use proto::wire::action::Inline;
use proto::wire::rev2::{self, ActionResult, LogFile};

use super::collect::{Collected, Seen};
use super::declared::{Declared, Kind};
use super::hash::Source;
use super::inline::Inlined;
use super::tree;
use super::upload::Blobs;

/// What the result says of a finished action's files.
#[derive(Default)]
pub(crate) struct Fields {
    /// The lists of outputs, and the digests of the streams.
    pub(crate) result: ActionResult,
    /// For `ExecuteResponse.server_logs`.
    pub(crate) server_logs: HashMap<String, LogFile>,
    /// For the client's answer alone.
    pub(crate) inlined: Inlined,
}

/// Makes the fields of what was collected, and lists the blobs that they name.
#[allow(deprecated, reason = "clients before REv2.1 read the older fields")]
pub(crate) fn report(
    mut collected: Collected,
    declared: &Declared,
    function: DigestFunction,
    inline: &Inline,
) -> (Fields, Blobs) {
    let mut fields = Fields::default();
    let mut sources = HashMap::new();
    let mut files = Vec::new();
    let result = &mut fields.result;
    for (position, seen) in std::mem::take(&mut collected.outputs) {
        let output = &declared.outputs[position];
        let path = output.path.clone();
        match seen {
            Seen::File(file) => {
                let Some(digest) = collected.digest(file.id) else {
                    continue;
                };
                files.push(file.id);
                result.output_files.push(rev2::OutputFile {
                    path,
                    digest: Some(digest.to_wire()),
                    is_executable: file.executable,
                    ..Default::default()
                });
            }
            Seen::Symlink(target) => {
                let list = match output.kind {
                    Kind::Any => &mut result.output_symlinks,
                    Kind::File => &mut result.output_file_symlinks,
                    Kind::Directory => &mut result.output_directory_symlinks,
                };
                list.push(rev2::OutputSymlink {
                    path,
                    target,
                    node_properties: None,
                });
            }
            Seen::Directory(found) => {
                let Some(messages) = tree::messages(&found, &collected, function) else {
                    continue;
                };
                let (digest, bytes) = messages.tree;
                sources.insert(digest, Source::Memory(bytes));
                let mut directory = rev2::OutputDirectory {
                    path,
                    tree_digest: Some(digest.to_wire()),
                    is_topologically_sorted: true,
                    root_directory_digest: None,
                };
                if declared.directory_messages {
                    directory.root_directory_digest = Some(messages.root.to_wire());
                    for (digest, bytes) in messages.directories {
                        sources.insert(digest, Source::Memory(bytes));
                    }
                }
                result.output_directories.push(directory);
            }
        }
    }
    // The digest of an empty stream is left out, as Buildbarn does.
    let stream = |id: Option<usize>| {
        let digest = id.and_then(|id| collected.digest(id));
        digest
            .filter(|digest| digest.size() > 0)
            .map(|digest| digest.to_wire())
    };
    result.stdout_digest = stream(collected.stdout);
    result.stderr_digest = stream(collected.stderr);
    fields.inlined = Inlined::new(inline, &collected, result, &files);
    for (name, id) in &collected.logs {
        let Some(digest) = collected.digest(*id) else {
            continue;
        };
        let log = LogFile {
            digest: Some(digest.to_wire()),
            human_readable: false,
        };
        fields.server_logs.insert(name.clone(), log);
    }
    let unnamed = [
        (collected.stdout, result.stdout_digest.is_none()),
        (collected.stderr, result.stderr_digest.is_none()),
    ];
    for (id, digest, source) in collected.take_files() {
        if !unnamed.contains(&(Some(id), true)) {
            sources.insert(digest, source);
        }
    }
    let places = collected.places;
    (fields, Blobs { sources, places })
}

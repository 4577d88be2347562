//! Actions for tests, put together and stored.

use std::collections::BTreeMap;

use prost::Message;
use proto::wire::protobuf::{Timestamp, UInt32Value};
use proto::wire::remoteworker::desired_state::Executing;
use proto::wire::rev2::{self, Action, Command, Directory};
use proto::{Digest, DigestFunction};

use super::FakeStorage;

/// SHA-256.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Sha256, bytes)
}

/// An action that runs a shell script.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) command: Command,
    pub(crate) action: Action,
    root: BTreeMap<String, rev2::FileNode>,
    directories: Vec<rev2::DirectoryNode>,
    symlinks: Vec<rev2::SymlinkNode>,
}

impl Input {
    /// Runs `/bin/sh -c SCRIPT` with a timeout of a minute.
    pub(crate) fn script(script: &str) -> Self {
        let mut input = Self::default();
        input.command.arguments = ["/bin/sh", "-c", script].map(String::from).into();
        input.action.timeout = Some(proto::messages::duration(std::time::Duration::from_secs(
            60,
        )));
        input
    }

    pub(crate) fn outputs(mut self, paths: &[&str]) -> Self {
        self.command.output_paths = paths.iter().map(ToString::to_string).collect();
        self
    }

    /// A file in the root.
    pub(crate) fn file(self, storage: &FakeStorage, name: &str, bytes: &[u8]) -> Self {
        self.file_of(name, storage.put(bytes.to_vec()))
    }

    /// A file in the root, stored or not.
    pub(crate) fn file_of(mut self, name: &str, digest: Digest) -> Self {
        let node = rev2::FileNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
            is_executable: name.ends_with(".sh"),
            node_properties: None,
        };
        self.root.insert(name.into(), node);
        self
    }

    /// With a mode and a time of modification of its own for a file in the root.
    pub(crate) fn properties(mut self, name: &str, mode: u32, seconds: i64) -> Self {
        let file = self.root.get_mut(name).unwrap();
        file.node_properties = Some(rev2::NodeProperties {
            unix_mode: Some(UInt32Value { value: mode }),
            mtime: Some(Timestamp { seconds, nanos: 0 }),
            ..Default::default()
        });
        self
    }

    /// A directory in the root, stored or not.
    pub(crate) fn directory_of(mut self, name: &str, digest: Digest) -> Self {
        self.directories.push(rev2::DirectoryNode {
            name: name.into(),
            digest: Some(digest.to_wire()),
        });
        self
    }

    /// A link in the root.
    pub(crate) fn symlink(mut self, name: &str, target: &str) -> Self {
        self.symlinks.push(rev2::SymlinkNode {
            name: name.into(),
            target: target.into(),
            node_properties: None,
        });
        self
    }

    /// Stores the messages and makes what a scheduler hands out.
    pub(crate) fn store(self, storage: &FakeStorage) -> Executing {
        let root = Directory {
            files: self.root.into_values().collect(),
            directories: self.directories,
            symlinks: self.symlinks,
            node_properties: None,
        };
        let root = storage.put(root.encode_to_vec());
        let command = storage.put(self.command.encode_to_vec());
        handed_out(Action {
            command_digest: Some(command.to_wire()),
            input_root_digest: Some(root.to_wire()),
            ..self.action
        })
    }
}

/// What a scheduler hands out for an action.
fn handed_out(action: Action) -> Executing {
    Executing {
        action_digest: Some(digest(&action.encode_to_vec()).to_wire()),
        action: Some(action),
        queued_timestamp: Some(proto::messages::timestamp(std::time::SystemTime::now())),
        digest_function: DigestFunction::Sha256.to_wire(),
        instance_name_suffix: "main".into(),
        ..Default::default()
    }
}

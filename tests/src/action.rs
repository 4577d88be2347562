//! Actions.

use std::time::Duration;

use bytes::Bytes;
use hayloft::client::blob;
use proto::Digest;
use proto::wire::protobuf;
use proto::wire::rev2;

use crate::tree::Tree;

/// An action and everything it consists of. Not an action's builder alone: what
/// it is made of can be taken out and broken.
#[derive(Clone, Debug, Default)]
pub struct Action {
    /// The Command message.
    pub command: rev2::Command,
    /// The Action message; the digests in it are filled in by [`Self::blobs`]
    /// where they are absent.
    pub message: rev2::Action,
    /// The input root.
    pub tree: Tree,
    /// Whether to look for an earlier result.
    pub skip_cache_lookup: bool,
}

impl Action {
    /// One that runs these words.
    #[must_use]
    pub fn new<W: Into<String>>(words: impl IntoIterator<Item = W>) -> Self {
        Self {
            command: rev2::Command {
                arguments: words.into_iter().map(Into::into).collect(),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    /// One that runs a shell script, with a PATH.
    #[must_use]
    pub fn shell(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script]).environment("PATH", "/usr/bin:/bin")
    }

    /// With this input root.
    #[must_use]
    pub fn tree(mut self, tree: &Tree) -> Self {
        self.tree = tree.clone();
        self
    }

    /// With an environment variable.
    #[must_use]
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        let variable = rev2::command::EnvironmentVariable {
            name: name.into(),
            value: value.into(),
        };
        let variables = &mut self.command.environment_variables;
        variables.push(variable);
        variables.sort_by(|a, b| a.name.cmp(&b.name));
        self
    }

    /// With an output path.
    #[must_use]
    pub fn output(mut self, path: &str) -> Self {
        self.command.output_paths.push(path.into());
        self.command.output_paths.sort();
        self
    }

    /// In a folder of the input root.
    #[must_use]
    pub fn working_directory(mut self, path: &str) -> Self {
        self.command.working_directory = path.into();
        self
    }

    /// With a timeout.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.message.timeout = Some(proto::messages::duration(timeout));
        self
    }

    /// With a timeout that is no span of time.
    #[must_use]
    pub fn timeout_of(mut self, seconds: i64, nanos: i32) -> Self {
        self.message.timeout = Some(protobuf::Duration { seconds, nanos });
        self
    }

    /// Neither cached nor looked up.
    #[must_use]
    pub fn do_not_cache(mut self) -> Self {
        self.message.do_not_cache = true;
        self
    }

    /// Different from all other actions that are alike.
    #[must_use]
    pub fn salt(mut self, salt: &str) -> Self {
        self.message.salt = salt.into();
        self
    }

    /// With platform properties, in the Action and, as old clients have it, in
    /// the Command.
    #[must_use]
    pub fn platform(mut self, properties: &[(&str, &str)]) -> Self {
        let platform = rev2::Platform {
            properties: properties
                .iter()
                .map(|(name, value)| rev2::platform::Property {
                    name: (*name).into(),
                    value: (*value).into(),
                })
                .collect(),
        };
        #[allow(deprecated)]
        {
            self.command.platform = Some(platform.clone());
        }
        self.message.platform = Some(platform);
        self
    }

    /// Its digest, and every blob of it: Action, Command and input root.
    #[must_use]
    pub fn blobs(&self) -> (Digest, Vec<(Digest, Bytes)>) {
        let (root, mut blobs) = self.tree.blobs();
        let command = blob(&self.command);
        let mut message = self.message.clone();
        message.input_root_digest.get_or_insert(root.to_wire());
        message
            .command_digest
            .get_or_insert_with(|| command.0.to_wire());
        let action = blob(&message);
        blobs.push(command);
        blobs.push(action.clone());
        (action.0, blobs)
    }
}

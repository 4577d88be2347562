//! A client of any REv2 farm.
//!
//! [`inputs`] turns a folder into a Merkle tree and uploads what the farm lacks,
//! [`execution`] runs an action and follows it, [`outputs`] fetches what it made,
//! [`listing`] tells what is in a tree.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use daemon::{Channel, Upstream};
use prost::Message;
use proto::wire::rev2;
use proto::{Digest, DigestFunction, InstanceName};
use storage::BlobStore;

pub mod execution;
pub mod inputs;
pub mod listing;
pub mod outputs;

/// A connection to a farm, about one instance name. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    channel: Channel,
    instance: InstanceName,
    blobs: Arc<dyn BlobStore>,
}

/// What to run, apart from its inputs.
#[derive(Clone, Debug, Default)]
pub struct Spec {
    /// The command's words.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// The files and directories to bring back, relative to the input root.
    pub outputs: Vec<String>,
    /// The platform it asks for.
    pub platform: Vec<(String, String)>,
    /// How long it may run; none: as the farm has it.
    pub timeout: Option<std::time::Duration>,
    /// Neither look for an earlier result nor keep this one.
    pub do_not_cache: bool,
}

impl Client {
    /// Prepares a connection; it is made on first use.
    ///
    /// # Errors
    /// The address cannot be connected to.
    pub fn connect(farm: &Upstream, instance: InstanceName) -> Result<Self> {
        let channel = farm.connect()?;
        Ok(Self {
            blobs: Arc::new(storage::RemoteStorage::connect(farm, None)?),
            channel,
            instance,
        })
    }

    /// A client of a store alone.
    #[cfg(test)]
    pub(crate) fn without_farm(blobs: Arc<dyn BlobStore>) -> Self {
        let nowhere = daemon::Address::Unix("/nowhere".into());
        Self {
            // Calls are what fails there, not this.
            #[allow(clippy::unwrap_used)]
            channel: daemon::connect(&nowhere).unwrap(),
            instance: InstanceName::empty(),
            blobs,
        }
    }

    /// The farm's blobs.
    #[must_use]
    pub fn blobs(&self) -> &Arc<dyn BlobStore> {
        &self.blobs
    }

    /// The instance name all calls are about.
    #[must_use]
    pub fn instance(&self) -> &InstanceName {
        &self.instance
    }

    /// The channel, for calls of other services.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Uploads small blobs.
    ///
    /// # Errors
    /// The farm cannot be asked, or refuses one.
    pub async fn upload(&self, blobs: Vec<(Digest, Bytes)>) -> Result<()> {
        for stored in self.blobs.write_batch(&self.instance, blobs).await? {
            stored?;
        }
        Ok(())
    }

    /// Fetches a whole blob.
    ///
    /// # Errors
    /// The farm does not have it, or cannot be asked.
    pub async fn fetch(&self, digest: Digest) -> Result<Bytes> {
        self.blobs
            .read_batch(&self.instance, &[digest])
            .await?
            .pop()
            .context("the storage answered nothing")?
            .with_context(|| format!("cannot fetch {digest}"))
    }

    /// Uploads the messages that describe an action and gives its digest.
    ///
    /// # Errors
    /// The farm cannot be asked.
    pub async fn upload_action(&self, spec: &Spec, input_root: Digest) -> Result<Digest> {
        let (action, blobs) = describe(spec, input_root);
        self.upload(blobs).await?;
        Ok(action)
    }
}

/// The action's digest, and the blobs of its Action and Command messages.
#[must_use]
pub fn describe(spec: &Spec, input_root: Digest) -> (Digest, Vec<(Digest, Bytes)>) {
    let pair = |(name, value): &(String, String)| rev2::command::EnvironmentVariable {
        name: name.clone(),
        value: value.clone(),
    };
    let mut environment: Vec<_> = spec.environment.iter().map(pair).collect();
    environment.sort_by(|a, b| a.name.cmp(&b.name));
    let mut outputs = spec.outputs.clone();
    outputs.sort();
    outputs.dedup();
    let platform =
        Some(proto::PlatformKey::from_properties(spec.platform.iter().cloned()).to_wire());
    // Old servers look for the platform and the outputs where REv2.0 had them.
    #[allow(deprecated)]
    let command = rev2::Command {
        arguments: spec.arguments.clone(),
        environment_variables: environment,
        output_paths: outputs,
        platform: platform.clone(),
        ..Default::default()
    };
    let command = blob(&command);
    let action = blob(&rev2::Action {
        command_digest: Some(command.0.to_wire()),
        input_root_digest: Some(input_root.to_wire()),
        timeout: spec.timeout.map(proto::messages::duration),
        do_not_cache: spec.do_not_cache,
        platform,
        ..Default::default()
    });
    (action.0, vec![command, action])
}

/// A message as a blob.
pub fn blob(message: &impl Message) -> (Digest, Bytes) {
    let bytes = Bytes::from(message.encode_to_vec());
    (Digest::of(DigestFunction::Sha256, &bytes), bytes)
}

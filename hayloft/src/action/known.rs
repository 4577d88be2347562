//! What is found out about an action.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use prost::Message;
use proto::wire::cas::HistoricalExecuteResponse;
use proto::wire::rev2::{self, ActionResult, ExecuteResponse, ExecutedActionMetadata};
use proto::{Digest, DigestFunction};

use crate::client::Client;
use crate::client::listing::{Directories, Entry, Totals};
use crate::client::outputs::Tree;

/// Logs of the runner up to this size are shown, if they are text: there are core
/// dumps among them.
const SHOWN: u64 = 64 << 10;

/// An action as far as the farm still knows it.
#[derive(Debug)]
pub struct Known {
    /// Its digest.
    pub digest: Digest,
    /// What ran.
    pub action: Option<rev2::Action>,
    /// And how.
    pub command: Option<rev2::Command>,
    /// On what.
    pub inputs: Option<Listed>,
    /// What became of it.
    pub outcome: Option<Outcome>,
    /// What could not be found out, and why.
    pub notes: Vec<String>,
}

/// A tree: how much is in it, and the beginning of what.
#[derive(Debug)]
pub struct Listed {
    /// How much.
    pub totals: Totals,
    /// What.
    pub entries: Vec<Entry>,
}

/// What became of an action.
#[derive(Debug)]
pub struct Outcome {
    /// Where that is from.
    pub source: Source,
    /// As the client heard it, or would hear it.
    pub response: ExecuteResponse,
    /// What it printed; none where it is not stored any more.
    pub stdout: Option<Bytes>,
    /// And complained.
    pub stderr: Option<Bytes>,
    /// What output directories hold, by path.
    pub directories: BTreeMap<String, Listed>,
    /// What the runner logged of it, as far as it is short text.
    pub logs: BTreeMap<String, String>,
}

/// Where an outcome is from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The action cache: another client would be given it.
    ActionCache,
    /// What a worker kept of an action that failed or may not be cached.
    Historical,
}

impl Source {
    /// As JSON has it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::ActionCache => "action_cache",
            Self::Historical => "historical_execute_response",
        }
    }
}

impl Outcome {
    /// The result; an empty one where there is none.
    #[must_use]
    pub fn result(&self) -> ActionResult {
        self.response.result.clone().unwrap_or_default()
    }

    /// Who executed it, and when what happened.
    #[must_use]
    pub fn metadata(&self) -> ExecutedActionMetadata {
        self.result().execution_metadata.unwrap_or_default()
    }
}

/// What a blob is. A HistoricalExecuteResponse has an action's digest where an Action
/// has its command's, but nothing in the place of an Action's input root.
enum Blob {
    Action(rev2::Action),
    Historical(Box<HistoricalExecuteResponse>),
}

impl Blob {
    fn decode(bytes: &Bytes) -> Option<Self> {
        let action = rev2::Action::decode(bytes.clone()).ok();
        if let Some(action) = action.filter(|action| action.input_root_digest.is_some()) {
            return Some(Self::Action(action));
        }
        let historical = HistoricalExecuteResponse::decode(bytes.clone()).ok();
        historical
            .filter(|it| it.action_digest.is_some() && it.execute_response.is_some())
            .map(|it| Self::Historical(Box::new(it)))
    }
}

impl Known {
    /// Finds out about the action that a blob is, or is about; of inputs and output
    /// directories lists so many things each.
    ///
    /// # Errors
    /// The farm cannot be asked, does not have the blob, or it is of another kind.
    pub async fn of(client: &Client, blob: Digest, limit: usize) -> Result<Self> {
        let bytes = client.fetch(blob).await?;
        let mut known = Self {
            digest: blob,
            action: None,
            command: None,
            inputs: None,
            outcome: None,
            notes: Vec::new(),
        };
        let response = match Blob::decode(&bytes) {
            None => bail!("{blob} is neither an Action nor a HistoricalExecuteResponse"),
            Some(Blob::Action(action)) => {
                known.action = Some(action);
                let cached = known.look_up(client).await;
                cached.map(|response| (Source::ActionCache, response))
            }
            Some(Blob::Historical(historical)) => {
                let action = historical.action_digest.as_ref();
                known.digest = Digest::from_wire(blob.function(), action)?;
                let action = client.fetch(known.digest).await;
                let action = action.and_then(|bytes| Ok(rev2::Action::decode(bytes)?));
                known.action = known.noted("the Action", action);
                let response = historical.execute_response;
                response.map(|response| (Source::Historical, response))
            }
        };
        known.read_action(client, limit).await;
        if let Some((source, response)) = response {
            let outcome = known.read_outcome(client, source, response, limit).await;
            known.outcome = Some(outcome);
        }
        Ok(known)
    }

    /// What is there, or a note why not.
    fn noted<T>(&mut self, what: &str, found: Result<T>) -> Option<T> {
        found
            .map_err(|error| self.notes.push(format!("{what}: {error:#}")))
            .ok()
    }

    fn function(&self) -> DigestFunction {
        self.digest.function()
    }

    async fn look_up(&mut self, client: &Client) -> Option<ExecuteResponse> {
        let found = client.cached(self.digest).await;
        let result = self.noted("the action cache", found)??;
        Some(ExecuteResponse {
            result: Some(result),
            ..Default::default()
        })
    }

    async fn read_action(&mut self, client: &Client, limit: usize) {
        let Some(action) = self.action.clone() else {
            return;
        };
        let command = self.message(client, action.command_digest.as_ref()).await;
        self.command = self.noted("the Command", command);
        let function = self.function();
        let inputs = async {
            let root = Digest::from_wire(function, action.input_root_digest.as_ref())?;
            let directories = client.directories(root).await?;
            if !directories.has_root() {
                bail!("{root} is not stored");
            }
            Ok(Listed::of(&directories, limit))
        };
        let inputs = inputs.await;
        self.inputs = self.noted("the inputs", inputs);
    }

    async fn message<M: Message + Default>(
        &self,
        client: &Client,
        digest: Option<&rev2::Digest>,
    ) -> Result<M> {
        let digest = Digest::from_wire(self.function(), digest)?;
        let bytes = client.fetch(digest).await?;
        M::decode(bytes).with_context(|| format!("{digest} is something else"))
    }

    async fn read_outcome(
        &mut self,
        client: &Client,
        source: Source,
        response: ExecuteResponse,
        limit: usize,
    ) -> Outcome {
        let result = response.result.clone().unwrap_or_default();
        let printed = self
            .printed(client, &result.stdout_raw, result.stdout_digest.as_ref())
            .await;
        let stdout = self.noted("standard output", printed);
        let printed = self
            .printed(client, &result.stderr_raw, result.stderr_digest.as_ref())
            .await;
        let stderr = self.noted("standard error", printed);
        let mut directories = BTreeMap::new();
        for directory in &result.output_directories {
            let tree = self.tree(client, directory.tree_digest.as_ref()).await;
            let tree = self.noted(&format!("the output {:?}", directory.path), tree);
            if let Some(tree) = tree {
                directories.insert(directory.path.clone(), Listed::of(&tree, limit));
            }
        }
        let mut logs = BTreeMap::new();
        for (name, log) in &response.server_logs {
            let digest = Digest::from_wire(self.function(), log.digest.as_ref());
            if !digest.is_ok_and(|digest| digest.size() <= SHOWN) {
                continue;
            }
            let bytes = self.printed(client, &[], log.digest.as_ref()).await;
            let bytes = self.noted(&format!("the log {name:?}"), bytes);
            let text = bytes.and_then(|bytes| String::from_utf8(bytes.into()).ok());
            logs.extend(text.map(|text| (name.clone(), text)));
        }
        Outcome {
            source,
            response,
            stdout,
            stderr,
            directories,
            logs,
        }
    }

    /// What is in the message itself, or else in a blob; nothing, where there is none.
    async fn printed(
        &self,
        client: &Client,
        raw: &[u8],
        digest: Option<&rev2::Digest>,
    ) -> Result<Bytes> {
        match digest {
            Some(digest) if raw.is_empty() => {
                let digest = Digest::from_wire(self.function(), Some(digest))?;
                client.fetch(digest).await
            }
            _ => Ok(Bytes::copy_from_slice(raw)),
        }
    }

    async fn tree(&self, client: &Client, digest: Option<&rev2::Digest>) -> Result<Directories> {
        let tree: Tree = self.message(client, digest).await?;
        let root = tree.root.context("the Tree has no root")?;
        let mut all = Vec::new();
        for bytes in std::iter::once(root).chain(tree.children) {
            let digest = Digest::of(self.function(), &bytes);
            all.push((digest, rev2::Directory::decode(bytes)?));
        }
        let root = all.first().map_or(self.digest, |(digest, _)| *digest);
        Ok(Directories::of(root, all))
    }
}

impl Listed {
    fn of(directories: &Directories, limit: usize) -> Self {
        Self {
            totals: directories.totals(),
            entries: directories.list(limit),
        }
    }

    /// How many things are not listed.
    #[must_use]
    pub fn more(&self) -> u64 {
        self.totals
            .entries()
            .saturating_sub(self.entries.len() as u64)
    }
}

#[cfg(test)]
#[path = "known_tests.rs"]
mod tests;

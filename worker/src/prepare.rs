//! Bringing what an action needs to the worker: its messages, and its files.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use proto::Digest;
use proto::wire::rev2;

use crate::Error;
use crate::action::{Services, Task};
use crate::cache::Tenant;
use crate::directories::{Tree, check_size};
use crate::layers;
use crate::outputs::Declared;
use crate::root::{Inputs, Means};

/// What the inputs of an action were turned into.
pub(crate) struct Prepared {
    pub(crate) command: Arc<rev2::Command>,
    pub(crate) declared: Arc<Declared>,
    pub(crate) inputs: Inputs,
}

impl Services {
    /// Reads the action's messages, and sees to it that all its input files are
    /// in the cache.
    #[allow(deprecated, reason = "clients before REv2.2 give the platform there")]
    pub(crate) async fn prepare(&self, task: &Task, means: Means) -> Result<Prepared, Error> {
        let instance = &task.instance;
        let tenant = self.cache.tenant(instance);
        let command = self.messages(tenant, task).await?;
        let (subtrees, directories) = (&self.subtrees, &self.directories);
        let loading = subtrees.load(directories, tenant, instance, task.input_root);
        let loaded = loading.await?;
        let command = match command {
            Some(command) if loaded.tree.missing.is_empty() => command,
            other => return Err(self.missing(task, other.is_none(), loaded.tree).await?),
        };
        let root = subtrees.assemble(tenant, loaded)?;
        let declared = Declared::new(&command, self.force_directories)?;
        let needed = declared.needed_directories();
        let platform = task.platform.as_ref().or(command.platform.as_ref());
        let means = Means {
            layers: means.layers && layers::are_wanted(platform)?,
            ..means
        };
        let (cache, layers) = (&self.cache, &self.layers);
        let inputs = Inputs::plan(cache, layers, instance, root, needed, means).await?;
        Ok(Prepared {
            command,
            declared: Arc::new(declared),
            inputs,
        })
    }

    /// The command, and the root's directory into memory, in one call or none.
    /// None where the storage has no such command.
    ///
    /// # Errors
    /// One is too large, which is found out before it is read, or malformed; the
    /// storage fails.
    async fn messages(
        &self,
        tenant: Tenant,
        task: &Task,
    ) -> Result<Option<Arc<rev2::Command>>, Error> {
        let what = "fetching the command and the input root";
        let mut command = self.commands.get(&(tenant, task.command));
        let mut wanted = Vec::new();
        if command.is_none() {
            check_size("command", task.command)?;
            wanted.push(task.command);
        }
        if self.directories.cached(tenant, &task.input_root).is_none() {
            check_size("input directory", task.input_root)?;
            wanted.push(task.input_root);
        }
        if wanted.is_empty() {
            return Ok(command);
        }
        let results = self
            .store
            .read_batch(&task.instance, &wanted)
            .await
            .map_err(Error::storage(what))?;
        // The empty Directory and the empty Command have the same digest.
        for (digest, result) in wanted.into_iter().zip(results) {
            let bytes = match result {
                Ok(bytes) => bytes,
                // Found missing once more, and counted, when the tree is loaded.
                Err(storage::Error::NotFound(_)) => continue,
                Err(error) => return Err(Error::storage(what)(error)),
            };
            if digest == task.input_root {
                self.directories.insert(tenant, digest, &bytes)?;
            }
            if digest == task.command && command.is_none() {
                command = Some(self.read_command(tenant, digest, &bytes)?);
            }
        }
        Ok(command)
    }

    fn read_command(
        &self,
        tenant: Tenant,
        digest: Digest,
        bytes: &Bytes,
    ) -> Result<Arc<rev2::Command>, Error> {
        let actual = Digest::of(digest.function(), bytes);
        if actual != digest {
            return Err(Error::storage("fetching the command")(
                storage::Error::Corrupt {
                    expected: digest,
                    actual,
                },
            ));
        }
        let command = rev2::Command::decode(bytes.as_ref()).map_err(|source| Error::Decode {
            what: "command",
            digest,
            source,
        })?;
        let command = Arc::new(command);
        // Strings cost more apart than encoded together.
        let weight = 512 + 4 * digest.size();
        self.commands
            .put((tenant, digest), Arc::clone(&command), weight);
        Ok(command)
    }

    /// Everything that is missing of an action some of whose messages are: the
    /// client uploads what the error lists and tries again, so it had better be
    /// all. What lies below a missing directory nobody can know.
    async fn missing(&self, task: &Task, command: bool, tree: Tree) -> Result<Error, Error> {
        let mut files: Vec<Digest> = tree
            .directories
            .values()
            .flat_map(|directory| directory.files.iter().map(|file| file.digest))
            .collect();
        files.sort_unstable();
        files.dedup();
        let mut blobs = tree.missing;
        if command {
            blobs.push(task.command);
        }
        if !files.is_empty() {
            let missing = self
                .store
                .find_missing(&task.instance, &files)
                .await
                .map_err(Error::storage("finding missing input files"))?;
            blobs.extend(missing);
        }
        blobs.sort_unstable();
        blobs.dedup();
        Ok(Error::Missing {
            what: "input of the action",
            blobs,
        })
    }
}

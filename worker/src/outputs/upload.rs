//! The result's output fields, and storing what they point to.

use std::collections::HashMap;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use proto::wire::rev2::{self, ActionResult, LogFile};
use proto::{Digest, DigestFunction, InstanceName};
use storage::BlobStore;
use tokio::sync::Semaphore;

use super::collect::{Collected, PIECE, Seen, Source};
use super::declared::{Declared, Kind};
use super::tree;
use crate::Error;
use crate::batches::{BATCH_BLOBS, Request, requests};
use crate::build_directory::BuildDirectory;

/// All of an action's blobs together up to this size are stored without asking
/// first which are missing: the answer would take as long as the bytes.
const UNASKED: u64 = 16 << 10;
/// Requests of one action that are prepared at the same time.
const CONCURRENT: usize = 32;

/// Blobs to be stored, each once.
pub(crate) type Blobs = HashMap<Digest, Source>;

/// Fills in the result's outputs, and the response's server logs, and lists the
/// blobs that they name.
///
/// # Errors
/// None that the caller could avoid: a file that was not hashed.
#[allow(deprecated, reason = "clients before REv2.1 read the older fields")]
pub(crate) fn report(
    mut collected: Collected,
    declared: &Declared,
    function: DigestFunction,
    result: &mut ActionResult,
    server_logs: &mut HashMap<String, LogFile>,
) -> Result<Blobs, Error> {
    let mut blobs = Blobs::new();
    for (place, seen) in std::mem::take(&mut collected.outputs) {
        let output = &declared.outputs[place];
        let path = output.path.clone();
        match seen {
            Seen::File(file) => result.output_files.push(rev2::OutputFile {
                path,
                digest: Some(collected.digest(file.id)?.to_wire()),
                is_executable: file.executable,
                ..Default::default()
            }),
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
                let messages = tree::messages(&found, &collected, function)?;
                let (digest, bytes) = messages.tree;
                blobs.insert(digest, Source::Memory(bytes));
                let mut directory = rev2::OutputDirectory {
                    path,
                    tree_digest: Some(digest.to_wire()),
                    is_topologically_sorted: true,
                    root_directory_digest: None,
                };
                if declared.directory_messages {
                    directory.root_directory_digest = Some(messages.root.to_wire());
                    for (digest, bytes) in messages.directories {
                        blobs.insert(digest, Source::Memory(bytes));
                    }
                }
                result.output_directories.push(directory);
            }
        }
    }
    let stream = |id: Option<usize>| -> Result<Option<rev2::Digest>, Error> {
        let digest = id.map(|id| collected.digest(id)).transpose()?;
        Ok(digest
            .filter(|digest| digest.size() > 0)
            .map(|digest| digest.to_wire()))
    };
    result.stdout_digest = stream(collected.stdout)?;
    result.stderr_digest = stream(collected.stderr)?;
    for (name, id) in &collected.logs {
        let log = LogFile {
            digest: Some(collected.digest(*id)?.to_wire()),
            human_readable: false,
        };
        server_logs.insert(name.clone(), log);
    }
    let unnamed = [
        (collected.stdout, result.stdout_digest.is_none()),
        (collected.stderr, result.stderr_digest.is_none()),
    ];
    for id in 0..collected.records.len() {
        if !unnamed.contains(&(Some(id), true)) {
            let digest = collected.digest(id)?;
            blobs.insert(digest, take_source(&mut collected, id));
        }
    }
    Ok(blobs)
}

fn take_source(collected: &mut Collected, id: usize) -> Source {
    std::mem::replace(
        &mut collected.records[id].source,
        Source::Memory(Bytes::new()),
    )
}

/// Stores what the storage has not. Everything is there when this returns.
///
/// # Errors
/// The storage refuses or fails; a file cannot be read any more.
pub(crate) async fn upload(
    store: &Arc<dyn BlobStore>,
    instance: &InstanceName,
    uploads: &Arc<Semaphore>,
    build: &Arc<BuildDirectory>,
    mut blobs: Blobs,
) -> Result<(), Error> {
    if blobs.is_empty() {
        return Ok(());
    }
    let total: u64 = blobs.keys().map(Digest::size).sum();
    if total > UNASKED || blobs.len() > BATCH_BLOBS {
        let digests: Vec<Digest> = blobs.keys().copied().collect();
        let missing = store
            .find_missing(instance, &digests)
            .await
            .map_err(Error::storage("finding missing outputs"))?;
        let mut wanted = Blobs::with_capacity(missing.len());
        for digest in missing {
            if let Some(source) = blobs.remove(&digest) {
                wanted.insert(digest, source);
            }
        }
        blobs = wanted;
    }
    futures::stream::iter(requests(blobs))
        .map(|request| async move {
            let _permit = uploads
                .acquire()
                .await
                .map_err(|closed| Error::Internal(closed.to_string()))?;
            match request {
                Request::Batch(blobs) => batch(store, instance, build, blobs).await,
                Request::Stream((digest, source)) => {
                    stream(store, instance, build, digest, source).await
                }
            }
        })
        .buffer_unordered(CONCURRENT)
        .try_collect()
        .await
}

async fn batch(
    store: &Arc<dyn BlobStore>,
    instance: &InstanceName,
    build: &Arc<BuildDirectory>,
    blobs: Vec<(Digest, Source)>,
) -> Result<(), Error> {
    let in_memory = |(_, source): &(Digest, Source)| matches!(source, Source::Memory(_));
    let blobs = if blobs.iter().all(in_memory) {
        read_all(build, blobs)?
    } else {
        let build = Arc::clone(build);
        tokio::task::spawn_blocking(move || read_all(&build, blobs)).await??
    };
    let results = store
        .write_batch(instance, blobs)
        .await
        .map_err(Error::storage("uploading outputs"))?;
    results
        .into_iter()
        .collect::<Result<(), _>>()
        .map_err(Error::storage("uploading an output"))
}

fn read_all(
    build: &BuildDirectory,
    blobs: Vec<(Digest, Source)>,
) -> Result<Vec<(Digest, Bytes)>, Error> {
    let read = |(digest, source): (Digest, Source)| {
        let file = match source {
            Source::Memory(bytes) => return Ok((digest, bytes)),
            Source::Open(file) => file,
            Source::At(location) => Arc::new(location.open(build.directory())?),
        };
        let mut bytes = vec![0; usize::try_from(digest.size()).unwrap_or(0)];
        file.read_exact_at(&mut bytes, 0)
            .map_err(|error| Error::file("read", "output")(crate::files::errno(&error)))?;
        Ok((digest, bytes.into()))
    };
    blobs.into_iter().map(read).collect()
}

async fn stream(
    store: &Arc<dyn BlobStore>,
    instance: &InstanceName,
    build: &Arc<BuildDirectory>,
    digest: Digest,
    source: Source,
) -> Result<(), Error> {
    let source: storage::Source = match source {
        Source::Memory(bytes) => storage::store::source(bytes),
        Source::Open(file) => Arc::new(move |offset| file_pieces(file.clone(), digest, offset)),
        Source::At(location) => {
            let build = Arc::clone(build);
            let opening = tokio::task::spawn_blocking(move || location.open(build.directory()));
            let file = Arc::new(opening.await??);
            Arc::new(move |offset| file_pieces(file.clone(), digest, offset))
        }
    };
    store
        .write_from(instance, digest, source)
        .await
        .map_err(Error::storage("uploading an output"))
}

/// An output's bytes from an offset on.
fn file_pieces(file: Arc<std::fs::File>, digest: Digest, from: u64) -> storage::ByteStream {
    futures::stream::try_unfold((file, from), move |(file, offset)| async move {
        let left = digest.size().saturating_sub(offset);
        if left == 0 {
            return Ok(None);
        }
        let length = usize::try_from(left).unwrap_or(PIECE).min(PIECE * 4);
        let reading = tokio::task::spawn_blocking(move || {
            let mut piece = vec![0; length];
            file.read_exact_at(&mut piece, offset)?;
            Ok::<_, std::io::Error>((file, piece))
        });
        let failed = |source| storage::Error::File {
            operation: "read",
            path: "output".into(),
            source,
        };
        let (file, piece) = reading
            .await
            .map_err(std::io::Error::other)
            .and_then(|read| read)
            .map_err(failed)?;
        Ok(Some((Bytes::from(piece), (file, offset + length as u64))))
    })
    .boxed()
}

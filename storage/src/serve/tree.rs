//! GetTree: all directories below one, level by level.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use prost::Message as _;
use proto::wire::rev2::{Directory, GetTreeResponse};
use proto::{Digest, InstanceName, status};
use tonic::Status;

use super::MAXIMUM_BATCH;
use super::field::{digest, unreadable};
use crate::error::Error;
use crate::pages;
use crate::store::BlobStore;

/// How many directories one message carries where the client does not say, and at
/// most.
const PAGE: usize = 1000;

struct Walk {
    blobs: Arc<dyn BlobStore>,
    instance: InstanceName,
    seen: HashSet<Digest>,
    rest: VecDeque<Digest>,
    page: usize,
}

impl Walk {
    /// Notes a directory to be read, unless it has been noted before.
    ///
    /// A digest is what a client says; behind one may be a blob of any size that is
    /// no Directory at all. None is read that one message could not carry.
    fn add(&mut self, directory: Digest) -> Result<(), Status> {
        if directory.size() > MAXIMUM_BATCH {
            return Err(status::invalid_argument(format!(
                "directory {directory} is larger than {MAXIMUM_BATCH} bytes"
            )));
        }
        if self.seen.insert(directory) {
            self.rest.push_back(directory);
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Vec<Directory>, Status> {
        // As many as one message may carry.
        let some = pages::take(&mut self.rest, self.page, MAXIMUM_BATCH);
        let read = self.blobs.read_batch(&self.instance, &some).await?;
        let mut directories = Vec::with_capacity(some.len());
        for (named, read) in some.iter().zip(read) {
            let bytes = match read {
                Ok(bytes) => bytes,
                // REv2: what is missing is left out.
                Err(Error::NotFound(_) | Error::Corrupt { .. } | Error::Size { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            let directory = Directory::decode(bytes).map_err(|error| {
                status::invalid_argument(format!("blob {named} is no Directory: {error}"))
            })?;
            for child in &directory.directories {
                let field = format!("directory {:?} in {named}", child.name);
                let child = digest(&field, named.function().to_wire(), child.digest.as_ref())?;
                self.add(child)?;
            }
            directories.push(directory);
        }
        Ok(directories)
    }
}

/// The pages of a tree, each distinct directory once, the root first.
pub(super) async fn pages(
    blobs: Arc<dyn BlobStore>,
    instance: InstanceName,
    root: Digest,
    page: usize,
) -> Result<BoxStream<'static, Result<GetTreeResponse, Status>>, Status> {
    // A tree without its root is not found, whatever else is there.
    if !blobs.find_missing(&instance, &[root]).await?.is_empty() {
        return Err(unreadable(Error::NotFound(root)));
    }
    let mut walk = Walk {
        blobs,
        instance,
        seen: HashSet::new(),
        rest: VecDeque::new(),
        page: if page == 0 { PAGE } else { page.min(PAGE) },
    };
    walk.add(root)?;
    Ok(futures::stream::try_unfold(walk, |mut walk| async move {
        if walk.rest.is_empty() {
            return Ok(None);
        }
        let directories = walk.next().await?;
        let page = GetTreeResponse {
            directories,
            next_page_token: String::new(),
        };
        Ok(Some((page, walk)))
    })
    .boxed())
}

//! GetTree, which servers need not have: bb_storage has it not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use prost::Message as _;
use proto::wire::rev2::GetTreeRequest;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::{Digest, InstanceName};
use tonic::Code;

use super::caller::{Caller, classify, patiently};
use super::pool::Pool;
use crate::error::Error;
use crate::store::Messages;

/// Asks for trees until the server says that it has no GetTree.
#[derive(Clone, Default)]
pub(super) struct Trees {
    refused: Arc<AtomicBool>,
}

impl Trees {
    /// The messages of a tree, in the server's order; none where it has no GetTree,
    /// or not the root.
    pub(super) async fn read(
        &self,
        client: &ContentAddressableStorageClient<Pool>,
        caller: &Caller,
        instance: &InstanceName,
        root: Digest,
    ) -> Result<Option<Messages>, Error> {
        if self.refused.load(Ordering::Relaxed) {
            return Ok(None);
        }
        let request = GetTreeRequest {
            instance_name: instance.to_string(),
            root_digest: Some(root.to_wire()),
            digest_function: root.function().to_wire(),
            ..Default::default()
        };
        let place = caller.place().await.map_err(Error::Remote)?;
        let mut client = client.clone();
        let pages = match patiently(client.get_tree(request)).await.map_err(classify) {
            Ok(pages) => pages.into_inner(),
            Err(status) => match status.code() {
                Code::Unimplemented => {
                    self.refused.store(true, Ordering::Relaxed);
                    return Ok(None);
                }
                Code::NotFound => return Ok(None),
                _ => return Err(Error::Remote(status)),
            },
        };
        let messages = futures::stream::try_unfold((pages, place), |(mut pages, place)| async {
            let page = patiently(pages.message()).await.map_err(classify);
            let page = page.map_err(Error::Remote)?;
            Ok::<_, Error>(page.map(|page| (page.directories, (pages, place))))
        })
        .map_ok(|directories| {
            let messages = directories.into_iter();
            // Equal messages have equal bytes where both sides know all their fields.
            futures::stream::iter(messages.map(|message| Ok(Bytes::from(message.encode_to_vec()))))
        })
        .try_flatten();
        Ok(Some(messages.boxed()))
    }
}

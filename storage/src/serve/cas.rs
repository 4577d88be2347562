//! ContentAddressableStorage.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use proto::wire::rev2::content_addressable_storage_server::{
    ContentAddressableStorage, ContentAddressableStorageServer,
};
use proto::wire::rev2::{
    BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse, FindMissingBlobsRequest, FindMissingBlobsResponse,
    GetChunkMappingRequest, GetChunkMappingResponse, GetTreeRequest, GetTreeResponse,
    RegisterChunkMappingRequest, RegisterChunkMappingResponse, SpliceBlobRequest,
    SpliceBlobResponse, SplitBlobRequest, SplitBlobResponse, batch_read_blobs_response,
    batch_update_blobs_response, compressor,
};
use proto::wire::rpc;
use proto::{Digest, status};
use tonic::{Request, Response, Status, Streaming};

use super::field::{digest, digests, instance, unreadable};
use super::{MAXIMUM_BATCH, MAXIMUM_MESSAGE, tree};
use crate::authorizers::{Authorizers, Call};
use crate::blocking::blocking;
use crate::compression;
use crate::error::Error;
use crate::store::BlobStore;

const IDENTITY: i32 = compressor::Value::Identity as i32;
const ZSTD: i32 = compressor::Value::Zstd as i32;

/// ContentAddressableStorage over a store. Splitting and splicing are not
/// implemented.
pub struct CasService {
    blobs: Arc<dyn BlobStore>,
    authorizers: Arc<Authorizers>,
}

impl CasService {
    /// The service, ready to be added to an endpoint.
    pub fn server(
        blobs: Arc<dyn BlobStore>,
        authorizers: Arc<Authorizers>,
    ) -> ContentAddressableStorageServer<Self> {
        ContentAddressableStorageServer::new(Self { blobs, authorizers })
            .max_decoding_message_size(MAXIMUM_MESSAGE)
    }
}

fn check_total(sizes: impl Iterator<Item = u64>) -> Result<(), Status> {
    let total = sizes.fold(0, u64::saturating_add);
    if total > MAXIMUM_BATCH {
        return Err(Status::invalid_argument(format!(
            "the blobs of the batch make {total} bytes together, more than \
             max_batch_total_size_bytes ({MAXIMUM_BATCH})"
        )));
    }
    Ok(())
}

fn verdict<T>(result: Result<T, Status>) -> (Option<T>, Option<rpc::Status>) {
    match result {
        Ok(value) => (Some(value), Some(rpc::Status::default())),
        Err(error) => (None, Some(status::to_wire(&error))),
    }
}

type Unpacked = (Vec<(Digest, Bytes)>, Vec<(usize, Error)>);

/// The blobs of a batch, and which of them (by place) are not what they should be.
async fn unpack(blobs: Vec<(Digest, Bytes, bool)>) -> Result<Unpacked, Status> {
    if !blobs.iter().any(|(.., packed)| *packed) {
        let plain = blobs.into_iter().map(|(digest, bytes, _)| (digest, bytes));
        return Ok((plain.collect(), Vec::new()));
    }
    // What they say they unpack to is held whole.
    check_total(blobs.iter().map(|(digest, ..)| digest.size()))?;
    let unpacking = blocking(move || {
        let mut unpacked = Vec::with_capacity(blobs.len());
        let mut refused = Vec::new();
        for (at, (digest, bytes, packed)) in blobs.into_iter().enumerate() {
            if !packed {
                unpacked.push((digest, bytes));
                continue;
            }
            match compression::unpack(digest, &bytes) {
                Ok(bytes) => unpacked.push((digest, bytes)),
                Err(error) => refused.push((at, error)),
            }
        }
        (unpacked, refused)
    });
    Ok(unpacking.await?)
}

fn response(
    digest: &Digest,
    read: Result<Bytes, Error>,
    packed: bool,
) -> batch_read_blobs_response::Response {
    let (data, status) = verdict(read.map_err(unreadable));
    let data = data.unwrap_or_default();
    let smaller = packed.then(|| compression::pack(&data)).flatten();
    batch_read_blobs_response::Response {
        digest: Some(digest.to_wire()),
        compressor: if smaller.is_some() { ZSTD } else { IDENTITY },
        data: smaller.unwrap_or(data).into(),
        status,
    }
}

#[tonic::async_trait]
impl ContentAddressableStorage for CasService {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::FindMissingBlobs, caller, &instance)
            .await?;
        let request = request.into_inner();
        let asked = digests(
            "blob_digests",
            request.digest_function,
            &request.blob_digests,
        )?;
        let missing = self.blobs.find_missing(&instance, &asked).await?;
        // They are in the order of the question, whose own messages go back.
        let mut missing = missing.iter().peekable();
        let named = asked.iter().zip(request.blob_digests);
        let named = named.filter(|(digest, _)| missing.next_if_eq(digest).is_some());
        Ok(Response::new(FindMissingBlobsResponse {
            missing_blob_digests: named.map(|(_, message)| message).collect(),
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::PutBlobs, caller, &instance)
            .await?;
        let request = request.into_inner();
        check_total(request.requests.iter().map(|blob| blob.data.len() as u64))?;
        let mut blobs = Vec::with_capacity(request.requests.len());
        for (at, blob) in request.requests.into_iter().enumerate() {
            let named = digest(
                &format!("requests[{at}].digest"),
                request.digest_function,
                blob.digest.as_ref(),
            )?;
            let packed = match blob.compressor {
                IDENTITY => false,
                ZSTD => true,
                other => {
                    return Err(Status::invalid_argument(format!(
                        "requests[{at}].compressor: {other} is not supported"
                    )));
                }
            };
            blobs.push((named, Bytes::from(blob.data), packed));
        }
        let named: Vec<Digest> = blobs.iter().map(|(digest, ..)| *digest).collect();
        let (blobs, refused) = unpack(blobs).await?;
        let mut written = self.blobs.write_batch(&instance, blobs).await?.into_iter();
        let mut refused = refused.into_iter().peekable();
        let responses = named
            .iter()
            .enumerate()
            .map(|(at, digest)| {
                let outcome = match refused.next_if(|(refused, _)| *refused == at) {
                    Some((_, error)) => Err(error),
                    None => written
                        .next()
                        .unwrap_or_else(|| Err(Error::NotFound(*digest))),
                };
                batch_update_blobs_response::Response {
                    digest: Some(digest.to_wire()),
                    status: verdict(outcome.map_err(Status::from)).1,
                }
            })
            .collect();
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::GetBlobs, caller, &instance)
            .await?;
        let request = request.into_inner();
        let asked = digests("digests", request.digest_function, &request.digests)?;
        check_total(asked.iter().map(Digest::size))?;
        let read = self.blobs.read_batch(&instance, &asked).await?;
        let packed = request.acceptable_compressors.contains(&ZSTD);
        let respond = move || {
            asked
                .iter()
                .zip(read)
                .map(|(digest, read)| response(digest, read, packed))
                .collect()
        };
        let responses = if packed {
            blocking(respond).await?
        } else {
            respond()
        };
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = BoxStream<'static, Result<GetTreeResponse, Status>>;

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let instance = instance(&request.get_ref().instance_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::GetBlobs, caller, &instance)
            .await?;
        let request = request.into_inner();
        let root = digest(
            "root_digest",
            request.digest_function,
            request.root_digest.as_ref(),
        )?;
        if !request.page_token.is_empty() {
            return Err(Status::invalid_argument(
                "page_token: not one that this server gave",
            ));
        }
        let page = usize::try_from(request.page_size)
            .map_err(|_| Status::invalid_argument("page_size: is negative"))?;
        let pages = tree::pages(self.blobs.clone(), instance, root, page).await?;
        Ok(Response::new(pages))
    }

    async fn split_blob(
        &self,
        _request: Request<SplitBlobRequest>,
    ) -> Result<Response<SplitBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not split"))
    }

    type GetChunkMappingStream = BoxStream<'static, Result<GetChunkMappingResponse, Status>>;

    async fn get_chunk_mapping(
        &self,
        _request: Request<GetChunkMappingRequest>,
    ) -> Result<Response<Self::GetChunkMappingStream>, Status> {
        Err(Status::unimplemented("blobs are not split"))
    }

    async fn splice_blob(
        &self,
        _request: Request<SpliceBlobRequest>,
    ) -> Result<Response<SpliceBlobResponse>, Status> {
        Err(Status::unimplemented("blobs are not spliced"))
    }

    async fn register_chunk_mapping(
        &self,
        _request: Request<Streaming<RegisterChunkMappingRequest>>,
    ) -> Result<Response<RegisterChunkMappingResponse>, Status> {
        Err(Status::unimplemented("blobs are not split"))
    }
}

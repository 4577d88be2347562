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
use crate::store::BlobStore;

/// ContentAddressableStorage over a store. Splitting and splicing are not
/// implemented.
pub struct CasService {
    blobs: Arc<dyn BlobStore>,
}

impl CasService {
    /// The service, ready to be added to an endpoint.
    pub fn server(blobs: Arc<dyn BlobStore>) -> ContentAddressableStorageServer<Self> {
        ContentAddressableStorageServer::new(Self { blobs })
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

#[tonic::async_trait]
impl ContentAddressableStorage for CasService {
    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let request = request.into_inner();
        let instance = instance(&request.instance_name)?;
        let asked = digests(
            "blob_digests",
            request.digest_function,
            &request.blob_digests,
        )?;
        let missing = self.blobs.find_missing(&instance, &asked).await?;
        Ok(Response::new(FindMissingBlobsResponse {
            missing_blob_digests: missing.iter().map(Digest::to_wire).collect(),
        }))
    }

    async fn batch_update_blobs(
        &self,
        request: Request<BatchUpdateBlobsRequest>,
    ) -> Result<Response<BatchUpdateBlobsResponse>, Status> {
        let request = request.into_inner();
        let instance = instance(&request.instance_name)?;
        check_total(request.requests.iter().map(|blob| blob.data.len() as u64))?;
        let mut blobs = Vec::with_capacity(request.requests.len());
        for (at, blob) in request.requests.into_iter().enumerate() {
            let named = digest(
                &format!("requests[{at}].digest"),
                request.digest_function,
                blob.digest.as_ref(),
            )?;
            if blob.compressor != compressor::Value::Identity as i32 {
                return Err(Status::invalid_argument(format!(
                    "requests[{at}].compressor: {} is not supported",
                    blob.compressor
                )));
            }
            blobs.push((named, Bytes::from(blob.data)));
        }
        let named: Vec<Digest> = blobs.iter().map(|(digest, _)| *digest).collect();
        let written = self.blobs.write_batch(&instance, blobs).await?;
        let responses = named
            .iter()
            .zip(written)
            .map(|(digest, written)| batch_update_blobs_response::Response {
                digest: Some(digest.to_wire()),
                status: verdict(written.map_err(Status::from)).1,
            })
            .collect();
        Ok(Response::new(BatchUpdateBlobsResponse { responses }))
    }

    async fn batch_read_blobs(
        &self,
        request: Request<BatchReadBlobsRequest>,
    ) -> Result<Response<BatchReadBlobsResponse>, Status> {
        let request = request.into_inner();
        let instance = instance(&request.instance_name)?;
        let asked = digests("digests", request.digest_function, &request.digests)?;
        check_total(asked.iter().map(Digest::size))?;
        let read = self.blobs.read_batch(&instance, &asked).await?;
        let responses = asked
            .iter()
            .zip(read)
            .map(|(digest, read)| {
                let (data, status) = verdict(read.map_err(unreadable));
                batch_read_blobs_response::Response {
                    digest: Some(digest.to_wire()),
                    data: data.map(Vec::from).unwrap_or_default(),
                    compressor: compressor::Value::Identity as i32,
                    status,
                }
            })
            .collect();
        Ok(Response::new(BatchReadBlobsResponse { responses }))
    }

    type GetTreeStream = BoxStream<'static, Result<GetTreeResponse, Status>>;

    async fn get_tree(
        &self,
        request: Request<GetTreeRequest>,
    ) -> Result<Response<Self::GetTreeStream>, Status> {
        let request = request.into_inner();
        let instance = instance(&request.instance_name)?;
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

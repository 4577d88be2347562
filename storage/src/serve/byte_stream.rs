//! ByteStream.
//!
//! An upload is not kept when its stream breaks: the status of one that is not
//! complete is that nothing is committed, and the client sends it again from the
//! start.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{StreamExt as _, TryStreamExt as _};
use proto::resource_name::Compressor;
use proto::wire::bytestream::byte_stream_server::{ByteStream, ByteStreamServer};
use proto::wire::bytestream::{
    QueryWriteStatusRequest, QueryWriteStatusResponse, ReadRequest, ReadResponse, WriteRequest,
    WriteResponse,
};
use proto::{Digest, ResourceName, status};
use tonic::{Request, Response, Status, Streaming};

use super::MAXIMUM_MESSAGE;
use super::field::unreadable;
use crate::error::Error;
use crate::store::{self, BlobStore};

/// How much one message of a read carries at most, in bytes.
const PIECE: usize = 1 << 20;

/// ByteStream over a store. Streams are not compressed.
pub struct ByteStreamService {
    blobs: Arc<dyn BlobStore>,
}

impl ByteStreamService {
    /// The service, ready to be added to an endpoint.
    pub fn server(blobs: Arc<dyn BlobStore>) -> ByteStreamServer<Self> {
        ByteStreamServer::new(Self { blobs }).max_decoding_message_size(MAXIMUM_MESSAGE)
    }

    async fn has(&self, name: &ResourceName) -> Result<bool, Status> {
        let one = [name.digest];
        let missing = self.blobs.find_missing(&name.instance, &one).await?;
        Ok(missing.is_empty())
    }
}

fn identity(name: ResourceName) -> Result<ResourceName, Status> {
    match name.compressor {
        Compressor::Identity => Ok(name),
        Compressor::Zstd => Err(status::invalid_argument(format!(
            "resource name \"{name}\": compressed streams are not supported"
        ))),
    }
}

fn wire_size(digest: &Digest) -> i64 {
    digest.to_wire().size_bytes
}

/// The messages of one upload.
///
/// *First message at hand* (`first`, from which the name was read) → *receiving*
/// (`rest`) → *finished*, with the message that says `finish_write`; what comes
/// after it is not read. Every message's offset is where the one before ended; its
/// resource name is empty or the first one's. Anything else, and an end before
/// `finish_write`, is an error of the client's.
struct Upload {
    first: Option<WriteRequest>,
    rest: Streaming<WriteRequest>,
    resource_name: String,
    offset: u64,
    finished: bool,
}

impl Upload {
    async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        if self.finished {
            return Ok(None);
        }
        let message = match self.first.take() {
            Some(first) => first,
            None => self.rest.message().await?.ok_or_else(|| {
                status::invalid_argument(format!(
                    "the upload of {:?} ended at offset {} without finish_write",
                    self.resource_name, self.offset
                ))
            })?,
        };
        if !message.resource_name.is_empty() && message.resource_name != self.resource_name {
            return Err(status::invalid_argument(format!(
                "resource_name changed from {:?} to {:?} within an upload",
                self.resource_name, message.resource_name
            )));
        }
        if u64::try_from(message.write_offset) != Ok(self.offset) {
            return Err(status::invalid_argument(format!(
                "write_offset is {}, expected {} in the upload of {:?}",
                message.write_offset, self.offset, self.resource_name
            )));
        }
        self.offset += message.data.len() as u64;
        self.finished = message.finish_write;
        Ok(Some(message.data.into()))
    }

    fn bytes(self) -> store::ByteStream {
        futures::stream::try_unfold(self, |mut upload| async move {
            let piece = upload.next().await.map_err(Error::Source)?;
            Ok(piece.map(|piece| (piece, upload)))
        })
        .boxed()
    }
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let request = request.into_inner();
        let name = identity(ResourceName::parse_read(&request.resource_name)?)?;
        let offset = u64::try_from(request.read_offset).map_err(|_| {
            Status::out_of_range(format!("read_offset {} is negative", request.read_offset))
        })?;
        let limit = match u64::try_from(request.read_limit) {
            Ok(0) => None,
            Ok(limit) => Some(limit),
            Err(_) => {
                return Err(status::invalid_argument(format!(
                    "read_limit {} is negative",
                    request.read_limit
                )));
            }
        };
        let bytes = self
            .blobs
            .read(&name.instance, name.digest, offset, limit)
            .await
            .map_err(unreadable)?;
        let messages = bytes
            .map_err(unreadable)
            .map_ok(|mut piece| {
                let mut messages = Vec::with_capacity(piece.len().div_ceil(PIECE));
                while piece.len() > PIECE {
                    messages.push(piece.split_to(PIECE));
                }
                messages.push(piece);
                futures::stream::iter(
                    messages
                        .into_iter()
                        .map(|data| Ok(ReadResponse { data: data.into() })),
                )
            })
            .try_flatten();
        Ok(Response::new(messages.boxed()))
    }

    async fn write(
        &self,
        request: Request<Streaming<WriteRequest>>,
    ) -> Result<Response<WriteResponse>, Status> {
        let mut rest = request.into_inner();
        let first = rest
            .message()
            .await?
            .ok_or_else(|| status::invalid_argument("the upload has no message"))?;
        let resource_name = first.resource_name.clone();
        let name = identity(ResourceName::parse_write(&resource_name)?)?;
        let done = Response::new(WriteResponse {
            committed_size: wire_size(&name.digest),
        });
        // REv2: whoever uploads what is there is told at once that it is there.
        if self.has(&name).await? {
            return Ok(done);
        }
        let upload = Upload {
            first: Some(first),
            rest,
            resource_name,
            offset: 0,
            finished: false,
        };
        self.blobs
            .write(&name.instance, name.digest, upload.bytes())
            .await?;
        Ok(done)
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = identity(ResourceName::parse_write(
            &request.into_inner().resource_name,
        )?)?;
        let complete = self.has(&name).await?;
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: if complete { wire_size(&name.digest) } else { 0 },
            complete,
        }))
    }
}

//! ByteStream.

use std::sync::Arc;
use std::time::Duration;

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status, Streaming};

use super::MAXIMUM_MESSAGE;
use super::field::unreadable;
use super::uploads::Parked;
use crate::authorizers::{Authorizers, Call};
use crate::compression;
use crate::error::Error;
use crate::store::{self, BlobStore};

/// How much one message of a read carries at most, in bytes.
const PIECE: usize = 1 << 20;

/// How many packed uploads are unpacked at a time, each with a window of up to 8 MiB;
/// further ones wait.
const UNPACKING: usize = 256;
/// How long a packed upload may stand still.
const PATIENCE: Duration = Duration::from_secs(60);

/// ByteStream over a store.
pub struct ByteStreamService {
    blobs: Arc<dyn BlobStore>,
    parked: Parked,
    authorizers: Arc<Authorizers>,
    unpacking: Arc<Semaphore>,
}

impl ByteStreamService {
    /// The service, ready to be added to an endpoint.
    pub fn server(
        blobs: Arc<dyn BlobStore>,
        authorizers: Arc<Authorizers>,
    ) -> ByteStreamServer<Self> {
        ByteStreamServer::new(Self {
            blobs,
            parked: Parked::default(),
            authorizers,
            unpacking: Arc::new(Semaphore::new(UNPACKING)),
        })
        .max_decoding_message_size(MAXIMUM_MESSAGE)
    }

    async fn has(&self, name: &ResourceName) -> Result<bool, Status> {
        let one = [name.digest];
        let missing = self.blobs.find_missing(&name.instance, &one).await?;
        Ok(missing.is_empty())
    }
}

fn wire_size(digest: &Digest) -> i64 {
    digest.to_wire().size_bytes
}

/// The messages of one call.
///
/// *First message at hand* (`first`, from which the name was read) → *receiving*
/// (`rest`) → *finished*, with the message that says `finish_write`; what comes
/// after it is not read. Every message's offset is where the one before ended; its
/// resource name is empty or the first one's. Anything else is an error of the
/// client's. A stream that breaks, or ends before `finish_write`, is *broken*.
struct Messages {
    first: Option<WriteRequest>,
    rest: Streaming<WriteRequest>,
    resource_name: String,
    /// Counts what is sent, packed or not, from where the first message began.
    offset: u64,
    finished: bool,
    /// Held while a packed upload is unpacked.
    place: Option<OwnedSemaphorePermit>,
}

/// Why no more messages come.
enum Stop {
    /// The stream broke; the client may come back.
    Broken(Status),
    /// What it says is wrong.
    Wrong(Status),
}

impl Messages {
    /// The next message. One whose place others wait for must not keep it for ever.
    async fn message(&mut self) -> Result<Option<WriteRequest>, Status> {
        let message = self.rest.message();
        if self.place.is_none() {
            return message.await;
        }
        let heard = tokio::time::timeout(PATIENCE, message).await;
        heard.unwrap_or_else(|_| Err(Status::unavailable("the upload stood still")))
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Stop> {
        if self.finished {
            return Ok(None);
        }
        let message = match self.first.take() {
            Some(first) => first,
            None => match self.message().await {
                Ok(Some(message)) => message,
                Ok(None) => {
                    return Err(Stop::Broken(status::invalid_argument(format!(
                        "the upload of {:?} ended at offset {} without finish_write",
                        self.resource_name, self.offset
                    ))));
                }
                Err(broken) => return Err(Stop::Broken(broken)),
            },
        };
        if !message.resource_name.is_empty() && message.resource_name != self.resource_name {
            return Err(Stop::Wrong(status::invalid_argument(format!(
                "resource_name changed from {:?} to {:?} within an upload",
                self.resource_name, message.resource_name
            ))));
        }
        if u64::try_from(message.write_offset) != Ok(self.offset) {
            return Err(Stop::Wrong(status::invalid_argument(format!(
                "write_offset is {}, expected {} in the upload of {:?}",
                message.write_offset, self.offset, self.resource_name
            ))));
        }
        self.offset += message.data.len() as u64;
        self.finished = message.finish_write;
        Ok(Some(message.data.into()))
    }

    /// The blob's bytes, unpacked. `from`: the offset of the first.
    fn bytes(self, name: &ResourceName, from: u64) -> store::ByteStream {
        let stream = futures::stream::try_unfold(self, |mut messages| async move {
            match messages.next().await {
                Ok(piece) => Ok(piece.map(|piece| (piece, messages))),
                Err(Stop::Broken(status)) => Err(Error::Broken(status)),
                Err(Stop::Wrong(status)) => Err(Error::Source(status)),
            }
        })
        .boxed();
        match name.compressor {
            Compressor::Identity => stream,
            Compressor::Zstd => {
                let length = name.digest.size().saturating_sub(from);
                compression::unpacked(name.digest, length, stream)
            }
        }
    }
}

#[tonic::async_trait]
impl ByteStream for ByteStreamService {
    type ReadStream = BoxStream<'static, Result<ReadResponse, Status>>;

    async fn read(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let name = ResourceName::parse_read(&request.get_ref().resource_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::GetBlobs, caller, &name.instance)
            .await?;
        let request = request.into_inner();
        let offset = u64::try_from(request.read_offset).map_err(|_| {
            Status::out_of_range(format!("read_offset {} is negative", request.read_offset))
        })?;
        let packed = name.compressor == Compressor::Zstd;
        let limit = match u64::try_from(request.read_limit) {
            Ok(0) => None,
            Ok(_) if packed => {
                return Err(Status::invalid_argument(
                    "read_limit: compressed streams have none (REv2)",
                ));
            }
            Ok(limit) => Some(limit),
            Err(_) => {
                return Err(status::invalid_argument(format!(
                    "read_limit {} is negative",
                    request.read_limit
                )));
            }
        };
        let mut bytes = self
            .blobs
            .read(&name.instance, name.digest, offset, limit)
            .await
            .map_err(unreadable)?;
        if packed {
            let length = name.digest.size().saturating_sub(offset);
            bytes = compression::packed(name.digest, length, bytes);
        }
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
        let (_, caller, mut rest) = request.into_parts();
        let first = rest
            .message()
            .await?
            .ok_or_else(|| status::invalid_argument("the upload has no message"))?;
        let resource_name = first.resource_name.clone();
        let name = ResourceName::parse_write(&resource_name)?;
        self.authorizers
            .check(Call::PutBlobs, &caller, &name.instance)
            .await?;
        // REv2: whoever uploads what is there is told at once that it is there, and
        // of a packed upload that nobody counted.
        if self.has(&name).await? {
            return Ok(Response::new(WriteResponse {
                committed_size: match name.compressor {
                    Compressor::Identity => wire_size(&name.digest),
                    Compressor::Zstd => -1,
                },
            }));
        }
        // REv2: where an upload begins counts the blob's bytes, packed or not.
        let offset = u64::try_from(first.write_offset).map_err(|_| {
            status::invalid_argument(format!(
                "write_offset is {}, which is negative",
                first.write_offset
            ))
        })?;
        let at_once = first.finish_write && offset == 0;
        let place = match name.compressor {
            Compressor::Identity => None,
            Compressor::Zstd => self.unpacking.clone().acquire_owned().await.ok(),
        };
        let mut bytes = Messages {
            first: Some(first),
            rest,
            resource_name,
            offset,
            finished: false,
            place,
        }
        .bytes(&name, offset);
        let done = Response::new(WriteResponse {
            committed_size: wire_size(&name.digest),
        });
        if at_once {
            // Nothing of it can break off any more.
            self.blobs.write(&name.instance, name.digest, bytes).await?;
            return Ok(done);
        }
        let receiving = self.parked.receive(&self.blobs, &name, offset);
        let mut receiving = receiving.ok_or_else(|| {
            status::invalid_argument(format!(
                "write_offset is {offset}, expected {} in the upload of \"{name}\"",
                self.parked.offset(&name)
            ))
        })?;
        loop {
            match bytes.try_next().await {
                Ok(Some(piece)) => {
                    if !receiving.push(piece).await {
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    if !matches!(error, Error::Broken(_)) {
                        receiving.give_up();
                    }
                    return Err(error.into());
                }
            }
        }
        receiving.finish().await?;
        Ok(done)
    }

    async fn query_write_status(
        &self,
        request: Request<QueryWriteStatusRequest>,
    ) -> Result<Response<QueryWriteStatusResponse>, Status> {
        let name = ResourceName::parse_write(&request.get_ref().resource_name)?;
        let caller = request.extensions();
        self.authorizers
            .check(Call::PutBlobs, caller, &name.instance)
            .await?;
        let complete = self.has(&name).await?;
        let committed = if complete {
            wire_size(&name.digest)
        } else {
            i64::try_from(self.parked.offset(&name)).unwrap_or(i64::MAX)
        };
        Ok(Response::new(QueryWriteStatusResponse {
            committed_size: committed,
            complete,
        }))
    }
}

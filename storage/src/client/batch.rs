//! BatchReadBlobs and BatchUpdateBlobs.

use std::collections::HashMap;

use bytes::Bytes;
use proto::wire::rev2::batch_read_blobs_response::Response;
use proto::wire::rev2::batch_update_blobs_request::Request;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::wire::rev2::{BatchReadBlobsRequest, BatchUpdateBlobsRequest, compressor};
use proto::wire::rpc;
use proto::{Digest, DigestFunction, InstanceName, status};
use tonic::{Code, Status};

use super::caller::Caller;
use super::pool::Pool;
use super::remote::about;
use crate::blocking::blocking;
use crate::compression;
use crate::error::Error;
use crate::verify;

const ZSTD: i32 = compressor::Value::Zstd as i32;
const IDENTITY: i32 = compressor::Value::Identity as i32;

/// Up to so many bytes are hashed, packed and unpacked where the caller runs.
const IN_PLACE: usize = 64 << 10;

/// The service, and how it is called.
#[derive(Clone)]
pub(super) struct Batches {
    pub(super) cas: ContentAddressableStorageClient<Pool>,
    pub(super) caller: Caller,
    /// Whether blobs may be packed.
    pub(super) packed: bool,
}

/// What goes into one call: items with their place in the caller's order.
#[derive(Debug, PartialEq)]
pub(super) enum Batch<T> {
    /// These fit together, and are of one digest function.
    Small(Vec<(usize, T)>),
    /// This one alone exceeds the limit, and must be streamed.
    Large((usize, T)),
}

/// What a blob takes in a message: its bytes, its hash in hexadecimal, and what
/// frames them.
pub(super) fn cost(digest: &Digest) -> u64 {
    let framing = 2 * digest.hash_bytes().len() as u64 + 48;
    digest.size().saturating_add(framing)
}

/// Splits items into calls under the limit.
pub(super) fn batches<T>(
    items: Vec<(usize, T)>,
    limit: u64,
    digest: impl Fn(&T) -> Digest,
) -> Vec<Batch<T>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut total = 0;
    let mut function = None;
    for (at, item) in items {
        let digest = digest(&item);
        let cost = cost(&digest);
        if cost > limit {
            batches.push(Batch::Large((at, item)));
            continue;
        }
        if !batch.is_empty() && (total + cost > limit || function != Some(digest.function())) {
            batches.push(Batch::Small(std::mem::take(&mut batch)));
            total = 0;
        }
        function = Some(digest.function());
        total += cost;
        batch.push((at, item));
    }
    if !batch.is_empty() {
        batches.push(Batch::Small(batch));
    }
    batches
}

fn verdict(digest: Digest, said: Option<rpc::Status>) -> Result<(), Error> {
    match said {
        Some(said) if said.code != Code::Ok as i32 => Err(about(digest, status::from_wire(&said))),
        _ => Ok(()),
    }
}

/// A blob that an answer says nothing about.
pub(super) fn unanswered(digest: Digest) -> Error {
    Error::Remote(Status::internal(format!(
        "the answer does not mention blob {digest}"
    )))
}

/// The bytes that one response of a batch carries.
fn content(digest: Digest, response: Response) -> Result<Bytes, Error> {
    verdict(digest, response.status)?;
    let bytes = match response.compressor {
        IDENTITY => Bytes::from(response.data),
        ZSTD => compression::unpack(digest, &response.data)?,
        other => {
            return Err(Error::Remote(Status::internal(format!(
                "blob {digest} came in compressor {other}, which was not asked for"
            ))));
        }
    };
    verify::whole(digest, &bytes)?;
    Ok(bytes)
}

fn contents(
    function: DigestFunction,
    responses: Vec<Response>,
    mut wanted: HashMap<Digest, Vec<usize>>,
) -> Vec<(usize, Result<Bytes, Error>)> {
    let mut results = Vec::new();
    for response in responses {
        let Ok(digest) = Digest::from_wire(function, response.digest.as_ref()) else {
            continue;
        };
        let Some(places) = wanted.remove(&digest) else {
            continue;
        };
        if let [at] = places[..] {
            results.push((at, content(digest, response)));
            continue;
        }
        // Once for each place, since errors cannot be cloned.
        for at in places {
            results.push((at, content(digest, response.clone())));
        }
    }
    for (digest, places) in wanted {
        results.extend(places.into_iter().map(|at| (at, Err(unanswered(digest)))));
    }
    results
}

/// A blob as it is sent.
fn request(digest: Digest, bytes: &Bytes, packed: bool) -> Request {
    match packed.then(|| compression::pack(bytes)).flatten() {
        Some(packed) => Request {
            digest: Some(digest.to_wire()),
            data: packed.into(),
            compressor: ZSTD,
        },
        None => Request {
            digest: Some(digest.to_wire()),
            data: bytes.to_vec(),
            compressor: IDENTITY,
        },
    }
}

impl Batches {
    /// Reads blobs that fit in one message.
    pub(super) async fn read(
        &self,
        instance: &InstanceName,
        blobs: Vec<(usize, Digest)>,
    ) -> Result<Vec<(usize, Result<Bytes, Error>)>, Error> {
        let Some(function) = blobs.first().map(|(_, digest)| digest.function()) else {
            return Ok(Vec::new());
        };
        let mut wanted: HashMap<Digest, Vec<usize>> = HashMap::with_capacity(blobs.len());
        for (at, digest) in blobs {
            wanted.entry(digest).or_default().push(at);
        }
        let request = BatchReadBlobsRequest {
            instance_name: instance.to_string(),
            digests: wanted.keys().map(Digest::to_wire).collect(),
            acceptable_compressors: if self.packed { vec![ZSTD] } else { Vec::new() },
            digest_function: function.to_wire(),
        };
        let call = || async { self.cas.clone().batch_read_blobs(request.clone()).await };
        let answered = self.caller.unary(call).await.map_err(Error::Remote)?;
        let responses = answered.into_inner().responses;
        let total: u64 = wanted.keys().map(Digest::size).sum();
        if total <= IN_PLACE as u64 {
            return Ok(contents(function, responses, wanted));
        }
        blocking(move || contents(function, responses, wanted)).await
    }

    /// Stores blobs that fit in one message.
    pub(super) async fn write(
        &self,
        instance: &InstanceName,
        blobs: Vec<(usize, (Digest, Bytes))>,
    ) -> Result<Vec<(usize, Result<(), Error>)>, Error> {
        let Some(function) = blobs.first().map(|(_, (digest, _))| digest.function()) else {
            return Ok(Vec::new());
        };
        let mut sent: HashMap<Digest, Vec<usize>> = HashMap::with_capacity(blobs.len());
        let mut distinct = Vec::with_capacity(blobs.len());
        for (at, (digest, bytes)) in blobs {
            let places = sent.entry(digest).or_default();
            if places.is_empty() {
                distinct.push((digest, bytes));
            }
            places.push(at);
        }
        let packed = self.packed;
        let requests = move || -> Vec<Request> {
            let each = distinct.iter();
            each.map(|(digest, bytes)| request(*digest, bytes, packed))
                .collect()
        };
        let total: u64 = sent.keys().map(Digest::size).sum();
        let request = BatchUpdateBlobsRequest {
            instance_name: instance.to_string(),
            requests: if packed && total > IN_PLACE as u64 {
                blocking(requests).await?
            } else {
                requests()
            },
            digest_function: function.to_wire(),
        };
        let call = || async { self.cas.clone().batch_update_blobs(request.clone()).await };
        let answered = self.caller.unary(call).await.map_err(Error::Remote)?;
        let mut results = Vec::new();
        for response in answered.into_inner().responses {
            let Ok(digest) = Digest::from_wire(function, response.digest.as_ref()) else {
                continue;
            };
            for at in sent.remove(&digest).unwrap_or_default() {
                results.push((at, verdict(digest, response.status.clone())));
            }
        }
        for (digest, places) in sent {
            results.extend(places.into_iter().map(|at| (at, Err(unanswered(digest)))));
        }
        Ok(results)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proto::DigestFunction;

    proptest! {
        /// Every item is in one batch, in order; batches keep to the limit, and
        /// each is of one function.
        #[test]
        fn batches_keep_to_the_limit(sizes in prop::collection::vec((0..3000u64, any::<bool>()), 0..60)) {
            let items: Vec<(usize, Digest)> = sizes
                .iter()
                .map(|(size, md5)| {
                    let function = if *md5 { DigestFunction::Md5 } else { DigestFunction::Sha256 };
                    Digest::new(function, &"0".repeat(2 * function.hash_length()), *size).unwrap()
                })
                .enumerate()
                .collect();
            let mut found = Vec::new();
            for batch in batches(items.clone(), 2000, |digest| *digest) {
                match batch {
                    Batch::Small(blobs) => {
                        prop_assert!(!blobs.is_empty());
                        let total: u64 = blobs.iter().map(|(_, digest)| cost(digest)).sum();
                        prop_assert!(total <= 2000);
                        prop_assert!(blobs.iter().all(|(_, d)| d.function() == blobs[0].1.function()));
                        found.extend(blobs);
                    }
                    Batch::Large(blob) => {
                        prop_assert!(cost(&blob.1) > 2000);
                        found.push(blob);
                    }
                }
            }
            found.sort_by_key(|(at, _)| *at);
            prop_assert_eq!(found, items);
        }
    }
}

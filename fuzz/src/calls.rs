//! Calls to services, made of foreign bytes.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use tonic::body::Body;
use tonic::service::Routes;
use tower::ServiceExt as _;

/// How long a call is waited for: those of clients and workers may be held for long.
const PATIENCE: Duration = Duration::from_secs(1);

/// Runs something where time passes as soon as everybody waits for it.
pub(crate) fn run<F: Future>(work: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("an event loop")
        .block_on(work)
}

/// Calls a method with these messages, as they are, and reads the answer until it
/// ends or nothing comes for a second. Gives how many bytes that was.
///
/// # Panics
/// The service answers with no gRPC status at all.
pub(crate) async fn call(routes: &Routes, path: &str, messages: &[&[u8]]) -> usize {
    let mut body = BytesMut::new();
    for message in messages {
        body.put_u8(0);
        body.put_u32(u32::try_from(message.len()).expect("inputs are small"));
        body.put_slice(message);
    }
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(http_body_util::Full::new(Bytes::from(body))))
        .expect("a request");
    let answered = tokio::time::timeout(PATIENCE, routes.clone().oneshot(request));
    let Ok(response) = answered.await else {
        return 0;
    };
    let response = response.expect("services do not fail");
    let mut told = response.headers().contains_key("grpc-status");
    let mut body = response.into_body();
    let mut length = 0;
    loop {
        match tokio::time::timeout(PATIENCE, body.frame()).await {
            Err(_) => return length,
            Ok(None) => break,
            Ok(Some(frame)) => {
                let frame = frame.expect("bodies do not fail");
                told |= frame.is_trailers();
                length += frame.data_ref().map_or(0, Bytes::len);
            }
        }
    }
    assert!(told, "an answer ended without a status");
    length
}

/// Cuts an input into pieces, each after two bytes that say how long it is, the lower
/// one first. The last piece may be short.
pub(crate) fn pieces(mut input: &[u8]) -> Vec<&[u8]> {
    let mut pieces = Vec::new();
    while let [low, high, rest @ ..] = input {
        let length = usize::from(u16::from_le_bytes([*low, *high]));
        let (piece, rest) = rest.split_at(rest.len().min(length));
        pieces.push(piece);
        input = rest;
    }
    pieces
}

/// Makes an input of pieces, as seeds are.
///
/// # Panics
/// A piece is longer than 64 KiB.
#[must_use]
pub fn frame(pieces: &[&[u8]]) -> Vec<u8> {
    let mut input = Vec::new();
    for piece in pieces {
        let length = u16::try_from(piece.len()).expect("seeds are small");
        input.put_u16_le(length);
        input.put_slice(piece);
    }
    input
}

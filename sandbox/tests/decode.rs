//! The protocol between the halves: whatever the bytes are, they are a message that
//! encodes to the same bytes, or an error; never a panic, nor memory beyond the bytes'.
//! `fuzz/` drives the same decoders further.

// The lint tells tests by their attribute, which helpers do not have.
#![allow(clippy::unwrap_used)]

use proptest::collection::vec;
use proptest::prelude::*;
use sandbox::{IdPair, Limit, Reply, Request, RunRequest};

fn text() -> impl Strategy<Value = Vec<u8>> {
    vec(1_u8.., 0..20)
}

fn name() -> impl Strategy<Value = Vec<u8>> {
    vec(
        any::<u8>().prop_filter("of names", |b| *b != 0 && *b != b'='),
        1..20,
    )
}

prop_compose! {
    fn run()(
        arguments in vec(text(), 1..5),
        environment in vec((name(), text()), 0..5),
        paths in vec(text(), 7),
        lower_directories in vec(text(), 0..4),
        timeout in proptest::option::of(any::<std::time::Duration>()),
        ids in proptest::option::of((any::<u32>(), any::<u32>())),
        limits in vec((0..Limit::ALL.len(), any::<u64>()), 0..4),
    ) -> RunRequest {
        let mut request = RunRequest {
            arguments,
            environment,
            working_directory: paths[0].clone(),
            input_root_directory: paths[1].clone(),
            lower_directories,
            scratch_directory: paths[2].clone(),
            temporary_directory: paths[3].clone(),
            stdout_path: paths[4].clone(),
            stderr_path: paths[5].clone(),
            server_logs_directory: paths[6].clone(),
            timeout,
            ids: ids.map(|(uid, gid)| IdPair { uid, gid }),
            ..RunRequest::default()
        };
        for (index, value) in limits {
            request.limits[Limit::ALL[index]] = Some(value);
        }
        request
    }
}

/// Bytes that are nearly a message.
fn damaged(bytes: Vec<u8>, place: usize, to: u8, cut: usize) -> Vec<u8> {
    let mut bytes = bytes;
    let length = bytes.len();
    bytes[place % length] = to;
    bytes.truncate(length.saturating_sub(cut % 3 * (cut % length)));
    bytes
}

proptest! {
    #[test]
    fn run_requests_round_trip(request in run()) {
        // Some combinations the encoder refuses.
        if let Ok(bytes) = request.encode() {
            prop_assert_eq!(RunRequest::decode(&bytes).unwrap(), request);
        }
    }

    #[test]
    fn damaged_run_requests_are_told(
        request in run(), place in any::<usize>(), to in any::<u8>(), cut in any::<usize>(),
    ) {
        let Ok(bytes) = request.encode() else { return Ok(()) };
        let bytes = damaged(bytes, place, to, cut);
        if let Ok(other) = RunRequest::decode(&bytes) {
            // Of what was repeated, the last counts.
            let again = other.encode().unwrap();
            prop_assert_eq!(RunRequest::decode(&again).unwrap(), other);
        }
    }

    #[test]
    fn any_bytes_are_a_message_or_an_error(bytes in vec(any::<u8>(), 0..200)) {
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode().unwrap(), bytes.clone());
        }
        if let Ok(reply) = Reply::decode(&bytes) {
            prop_assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
        }
        let _ = RunRequest::decode(&bytes);
    }

    #[test]
    fn damaged_headers_are_told(
        kind in 0..24_u32, id in any::<u64>(), length in 0..300_u64, body in vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = kind.to_le_bytes().to_vec();
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&id.to_le_bytes());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        if let Ok(request) = Request::decode(&bytes) {
            prop_assert_eq!(request.encode().unwrap(), bytes.clone());
        }
        if let Ok(reply) = Reply::decode(&bytes) {
            prop_assert_eq!(Reply::decode(&reply.encode()).unwrap(), reply);
        }
    }
}

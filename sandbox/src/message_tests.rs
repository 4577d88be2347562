use std::time::Duration;

use super::*;
use crate::done::{Done, End, Usage};
use crate::id_map::IdPair;
use crate::limits::{Limit, Limits};
use crate::run_request::RunRequest;

fn run() -> RunRequest {
    RunRequest {
        arguments: vec![b"cc".to_vec(), b"-c".to_vec(), Vec::new(), vec![0xff]],
        environment: vec![
            (b"PATH".to_vec(), b"/bin".to_vec()),
            (b"E".to_vec(), vec![]),
        ],
        working_directory: b"w".to_vec(),
        lower_directories: vec![b"layers/1".to_vec(), b"layers/2".to_vec()],
        scratch_directory: b"1/scratch".to_vec(),
        server_logs_directory: b"1/server_logs".to_vec(),
        input_root_directory: b"1/root".to_vec(),
        temporary_directory: b"1/tmp".to_vec(),
        stdout_path: b"1/stdout".to_vec(),
        stderr_path: b"1/stderr".to_vec(),
        timeout: Some(Duration::from_millis(1500)),
        ids: Some(IdPair { uid: 7, gid: 0 }),
        limits: {
            let mut limits = Limits::none();
            limits[Limit::Memory] = Some(7);
            limits
        },
    }
}

fn requests() -> Vec<Request> {
    vec![
        Request::Run { id: 1, length: 9 },
        Request::Kill { id: u64::MAX },
        Request::Reclaim {
            id: 3,
            path: b"a/b".to_vec(),
        },
        Request::CheckPath {
            id: 4,
            path: Vec::new(),
        },
    ]
}

fn replies() -> Vec<Reply> {
    let usage = Usage {
        user_time: Duration::from_micros(12),
        maximum_resident_set_size: 1 << 40,
        involuntary_context_switches: 7,
        ..Usage::default()
    };
    let ends = [
        End::Exited(255),
        End::Signaled(9),
        End::TimedOut,
        End::Killed,
    ];
    let mut replies: Vec<_> = ends
        .into_iter()
        .map(|end| {
            Reply::Done(Box::new(Done {
                id: 5,
                end,
                usage,
                duration: Duration::from_nanos(3),
                exceeded: Some(Limit::Memory),
                peak: {
                    let mut peak = Limits::none();
                    peak[Limit::Output] = Some(9);
                    peak
                },
            }))
        })
        .collect();
    for kind in [
        FailureKind::Command,
        FailureKind::Request,
        FailureKind::Sandbox,
    ] {
        replies.push(Reply::Failed {
            id: 6,
            failure: Failure {
                kind,
                step: "execute".to_owned(),
                errno: libc::ENOENT,
                detail: "ü".to_owned(),
            },
        });
    }
    replies.push(Reply::Started);
    replies.push(Reply::Reclaimed { id: 7, changed: 8 });
    replies.push(Reply::Checked { id: 9 });
    replies
}

#[test]
fn all_round_trip() {
    let run = run();
    assert_eq!(RunRequest::decode(&run.encode().unwrap()), Ok(run));
    for request in requests() {
        assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
    }
    for reply in replies() {
        assert_eq!(Reply::decode(&reply.encode()), Ok(reply));
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    type Accepts = fn(&[u8]) -> bool;
    let mut all: Vec<(Vec<u8>, Accepts)> =
        vec![(run().encode().unwrap(), |b| RunRequest::decode(b).is_ok())];
    for request in requests() {
        all.push((request.encode().unwrap(), |b| Request::decode(b).is_ok()));
    }
    for reply in replies() {
        all.push((reply.encode(), |b| Reply::decode(b).is_ok()));
    }
    for (mut bytes, accepts) in all {
        for length in 0..bytes.len() {
            assert!(!accepts(&bytes[..length]), "{length} of {bytes:?}");
        }
        bytes.push(0);
        assert!(!accepts(&bytes), "{bytes:?}");
    }
}

/// Overwrites each byte in turn, and feeds pseudo-random bytes: whatever comes
/// out, nothing panics and nothing huge is allocated.
#[test]
fn garbage_never_panics() {
    let good = run().encode().unwrap();
    for position in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[position] = value;
            let _ = RunRequest::decode(&bytes);
            let _ = Request::decode(&bytes);
            let _ = Reply::decode(&bytes);
        }
    }
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for length in 0..2000 {
        let bytes: Vec<u8> = (0..length % 300)
            .map(|_| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 56) as u8
            })
            .collect();
        let _ = RunRequest::decode(&bytes);
        let _ = Request::decode(&bytes);
        let _ = Reply::decode(&bytes);
    }
}

#[test]
fn unusable_requests_are_refused_when_encoding() {
    let refused = |change: fn(&mut RunRequest)| {
        let mut request = run();
        change(&mut request);
        request.encode().unwrap_err()
    };
    assert_eq!(refused(|r| r.arguments.clear()), MessageError::NoArguments);
    assert_eq!(
        refused(|r| r.arguments[1].push(0)),
        MessageError::Nul("argument")
    );
    assert_eq!(
        refused(|r| r.environment[0].0 = b"A=B".to_vec()),
        MessageError::VariableName
    );
    assert_eq!(
        refused(|r| r.environment[0].0.clear()),
        MessageError::VariableName
    );
    let no_id = refused(|r| r.ids = Some(IdPair::same(u32::MAX)));
    assert!(matches!(no_id, MessageError::Unknown { field: "ids", .. }));
    assert!(matches!(
        refused(|r| r.stdout_path = vec![b'a'; PATH_BYTES + 1]),
        MessageError::TooLong {
            field: "stdout path",
            ..
        }
    ));
    assert!(matches!(
        refused(|r| r.arguments[1] = vec![b'a'; RUN_BYTES as usize]),
        MessageError::TooLong {
            field: "request",
            ..
        }
    ));
}

#[test]
fn a_request_longer_than_the_limit_is_refused() {
    let bytes = Request::Run {
        id: 1,
        length: RUN_BYTES + 1,
    };
    assert!(matches!(
        Request::decode(&bytes.encode().unwrap()),
        Err(MessageError::TooLong { .. })
    ));
}

/// Found by fuzzing.
#[test]
fn a_length_that_means_nothing_is_refused() {
    let mut kill = Request::Kill { id: 1 }.encode().unwrap();
    kill[16] = 7;
    assert!(Request::decode(&kill).is_err());
    let mut reply = Reply::Checked { id: 1 }.encode();
    reply[16] = 7;
    assert!(Reply::decode(&reply).is_err());
}

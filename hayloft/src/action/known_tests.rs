//! What is found out about actions in a store, and about such that are lost in part.

use std::sync::Arc;

use storage::local::{Blobs, Limits};

use super::*;

/// A store whose blobs have BLAKE3's digests, which look like those of SHA-256.
struct Bench {
    client: Client,
    _store: tempfile::TempDir,
}

fn name(bytes: &[u8]) -> Digest {
    Digest::of(DigestFunction::Blake3, bytes)
}

impl Bench {
    fn new() -> Self {
        let store = tempfile::tempdir().unwrap();
        let limits = Limits {
            disk: 1 << 24,
            memory: 0,
        };
        let blobs = Blobs::open(store.path(), limits).unwrap();
        Self {
            client: Client::without_farm(Arc::new(blobs)),
            _store: store,
        }
    }

    async fn put(&self, bytes: Vec<u8>) -> Option<rev2::Digest> {
        let digest = name(&bytes);
        let blobs = vec![(digest, Bytes::from(bytes))];
        self.client.upload(blobs).await.unwrap();
        Some(digest.to_wire())
    }

    async fn known(&self, digest: &Option<rev2::Digest>) -> Result<Known> {
        let digest = Digest::from_wire(DigestFunction::Blake3, digest.as_ref()).unwrap();
        Known::of(&self.client, digest, 100).await
    }
}

fn historical(
    action: Option<rev2::Digest>,
    result: ActionResult,
    logs: Vec<(String, Option<rev2::Digest>)>,
) -> Vec<u8> {
    let log = |digest| rev2::LogFile {
        digest,
        human_readable: false,
    };
    HistoricalExecuteResponse {
        action_digest: action,
        execute_response: Some(ExecuteResponse {
            result: Some(result),
            server_logs: logs.into_iter().map(|(n, d)| (n, log(d))).collect(),
            ..Default::default()
        }),
    }
    .encode_to_vec()
}

#[tokio::test]
async fn all_digests_are_of_the_function_that_the_actions_is_of() {
    let bench = Bench::new();
    let file = rev2::FileNode {
        name: "f".into(),
        digest: bench.put(b"content".to_vec()).await,
        ..Default::default()
    };
    let directory = rev2::Directory {
        files: vec![file],
        ..Default::default()
    };
    let tree = rev2::Tree {
        root: Some(directory.clone()),
        children: Vec::new(),
    };
    let action = rev2::Action {
        command_digest: bench.put(rev2::Command::default().encode_to_vec()).await,
        input_root_digest: bench.put(directory.encode_to_vec()).await,
        ..Default::default()
    };
    let action = bench.put(action.encode_to_vec()).await;
    let result = ActionResult {
        stdout_digest: bench.put(b"said".to_vec()).await,
        output_directories: vec![rev2::OutputDirectory {
            path: "d".into(),
            tree_digest: bench.put(tree.encode_to_vec()).await,
            ..Default::default()
        }],
        ..Default::default()
    };
    let logs = vec![
        ("text".to_string(), bench.put(b"logged".to_vec()).await),
        ("core".to_string(), bench.put(b"\xff\x00".to_vec()).await),
    ];
    let kept = bench.put(historical(action.clone(), result, logs)).await;

    let known = bench.known(&kept).await.unwrap();
    assert_eq!(Some(known.digest.to_wire()), action);
    assert_eq!(known.notes, [""; 0]);
    assert!(known.command.is_some());
    assert_eq!(known.inputs.unwrap().totals.files, 1);
    let outcome = known.outcome.unwrap();
    assert_eq!(outcome.source, Source::Historical);
    assert_eq!(outcome.stdout.as_deref(), Some(&b"said"[..]));
    assert_eq!(outcome.stderr.as_deref(), Some(&b""[..]));
    assert_eq!(outcome.directories["d"].entries[0].path, "f");
    let logs: Vec<_> = outcome.logs.into_iter().collect();
    assert_eq!(logs, [("text".to_string(), "logged".to_string())]);

    // By its own digest: nobody answers for the action cache.
    let known = bench.known(&action).await.unwrap();
    assert!(known.outcome.is_none());
    assert_eq!(known.notes.len(), 1, "{:?}", known.notes);
    assert!(known.notes[0].starts_with("the action cache: "));
}

#[tokio::test]
async fn what_is_lost_is_noted_and_the_rest_told() {
    let bench = Bench::new();
    let lost = Some(name(b"lost").to_wire());
    let action = rev2::Action {
        command_digest: lost.clone(),
        input_root_digest: lost.clone(),
        ..Default::default()
    };
    let action = bench.put(action.encode_to_vec()).await;
    let result = ActionResult {
        stdout_digest: lost.clone(),
        stderr_raw: b"inline".to_vec(),
        output_directories: vec![rev2::OutputDirectory {
            path: "d".into(),
            tree_digest: lost.clone(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let kept = bench
        .put(historical(action, result.clone(), Vec::new()))
        .await;
    let known = bench.known(&kept).await.unwrap();
    let told = [
        "the Command",
        "the inputs",
        "standard output",
        "the output \"d\"",
    ];
    assert_eq!(known.notes.len(), told.len(), "{:?}", known.notes);
    for (note, what) in known.notes.iter().zip(told) {
        assert!(note.starts_with(&format!("{what}: ")), "{note}");
    }
    let outcome = known.outcome.unwrap();
    assert_eq!(outcome.stderr.as_deref(), Some(&b"inline"[..]));

    let kept = bench
        .put(historical(lost.clone(), result, Vec::new()))
        .await;
    let known = bench.known(&kept).await.unwrap();
    assert!(known.action.is_none() && known.outcome.is_some());
    bench.known(&lost).await.unwrap_err();
}

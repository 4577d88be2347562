//! How messages and files come from storage.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use prost::Message;
use proto::Digest;
use proto::wire::rev2::{Directory, DirectoryNode};
use tonic::Code;
use tonic_types::StatusExt as _;

use super::execution::code;
use crate::testing::{Farm, Input, Manners, digest};

/// Two branches of four levels, stored; and their messages.
fn branches(farm: &Farm) -> (Vec<Digest>, Vec<Bytes>) {
    let (mut tops, mut messages) = (Vec::new(), Vec::new());
    for branch in 0..2 {
        let mut below = None;
        for level in 0..4 {
            let directory = Directory {
                directories: below
                    .iter()
                    .map(|digest: &Digest| DirectoryNode {
                        name: format!("b{branch}l{level}"),
                        digest: Some(digest.to_wire()),
                    })
                    .collect(),
                ..Default::default()
            };
            let bytes = Bytes::from(directory.encode_to_vec());
            below = Some(farm.storage.put(bytes.clone()));
            messages.push(bytes);
        }
        tops.extend(below);
    }
    (tops, messages)
}

/// What reading the input root took beyond command and root.
async fn reads(farm: &mut Farm, tops: &[Digest], name: &str) -> usize {
    let before = farm.storage.reads.load(Ordering::SeqCst);
    let mut input = Input::script(&format!("ls -d */b*l3/b*l2/b*l1; echo {name} >&2"));
    for (n, top) in tops.iter().enumerate() {
        input = input.directory_of(&format!("{name}{n}"), *top);
    }
    let response = farm.execute(input).await;
    assert_eq!(response.result.unwrap().exit_code, 0);
    farm.storage.reads.load(Ordering::SeqCst) - before - 2
}

#[tokio::test]
async fn a_tree_of_which_nothing_is_known_comes_at_once_where_it_can() {
    let mut farm = Farm::new(Manners::default()).await;
    let (tops, messages) = branches(&farm);
    *farm.storage.tree.lock().unwrap() = Some(messages);
    assert_eq!(reads(&mut farm, &tops, "at_once").await, 0);
    farm.end().await;
}

#[tokio::test]
async fn a_storage_that_tells_half_the_tree_or_nonsense_changes_nothing() {
    for nonsense in [false, true] {
        let mut farm = Farm::new(Manners::default()).await;
        let (tops, mut messages) = branches(&farm);
        // Both branches begin with the same, empty, message.
        messages.truncate(4);
        if nonsense {
            messages = vec![Bytes::from_static(b"\xff\xff"), Bytes::new()];
        }
        *farm.storage.tree.lock().unwrap() = Some(messages);
        let expected = if nonsense { 6 } else { 3 };
        assert_eq!(reads(&mut farm, &tops, "by_level").await, expected);
        // What is known is not asked for again, by whatever call.
        *farm.storage.tree.lock().unwrap() = Some(vec![Bytes::from_static(b"\xff")]);
        assert_eq!(reads(&mut farm, &tops, "again").await, 0);
        farm.end().await;
    }
}

#[tokio::test]
async fn all_of_many_missing_files_are_listed() {
    const MISSING: u32 = 25_000;
    let mut farm = Farm::new(Manners::default()).await;
    let mut input = Input::script("true");
    for n in 0..MISSING {
        input = input.file_of(&n.to_string(), digest(&n.to_le_bytes()));
    }
    let response = farm.execute(input).await;
    assert_eq!(code(&response), Code::FailedPrecondition);
    let status = proto::status::from_wire(response.status.as_ref().unwrap());
    let violations = status
        .get_details_precondition_failure()
        .unwrap()
        .violations;
    let mut subjects: Vec<String> = violations.into_iter().map(|found| found.subject).collect();
    subjects.sort_unstable();
    subjects.dedup();
    assert_eq!(subjects.len(), MISSING as usize);
    // gRPC's default for messages, which clients do not raise.
    assert!(response.encoded_len() < 4 << 20);
    farm.end().await;
}

//! What one instance name stored or had executed, another cannot read: neither from
//! the storage nor, by naming its digest as an input, from the worker's cache.

use std::fs;

use bytes::Bytes;
use prost::Message;
use proto::wire::rev2;
use proto::wire::rev2::action_cache_client::ActionCacheClient;
use proto::wire::rev2::content_addressable_storage_client::ContentAddressableStorageClient;
use proto::{Digest, DigestFunction};
use tests::action::Action;
use tests::client::{Client, Outcome};
use tests::farm::{Farm, Setup};
use tests::tree::Tree;
use tests::user::As;
use tonic::Code;
use tonic_types::StatusExt;

/// The secret as an input, and what is printed of it.
fn reading(secret: &str) -> Action {
    let tree = Tree::new().file("secret", Bytes::copy_from_slice(secret.as_bytes()));
    Action::shell("cat secret; cp secret copy")
        .tree(&tree)
        .output("copy")
}

fn cached_files_with(farm: &Farm, secret: &str) -> usize {
    walkdir::WalkDir::new(farm.cache())
        .into_iter()
        .filter_map(Result::ok)
        .filter(|entry| fs::read(entry.path()).is_ok_and(|bytes| bytes == secret.as_bytes()))
        .count()
}

fn missing(outcome: &Outcome) -> Vec<String> {
    assert_eq!(
        outcome.status.code(),
        Code::FailedPrecondition,
        "{outcome:#?}"
    );
    let details = outcome.status.get_details_precondition_failure();
    let violations = details.expect("what is missing").violations;
    violations.into_iter().map(|found| found.subject).collect()
}

#[test]
fn a_tenant_reads_nothing_of_another() {
    for who in [As::PlainUser, As::Root] {
        if who == As::Root && !tests::skip::needs_root("a_tenant_reads_nothing_of_another") {
            continue;
        }
        let farm = Setup::new(who).start();
        let [one, other] =
            ["one", "one/other"].map(|name| Client::of_instance(farm.endpoint(), name));
        let secret = tests::secret();
        let digest = Digest::of(DigestFunction::Sha256, secret.as_bytes());
        let action = reading(&secret);
        let outcome = one.run(&action).success();
        assert_eq!(outcome.stdout, secret);
        // So the worker has it, and could give it to anybody.
        farm.wait_until_idle();
        assert!(cached_files_with(&farm, &secret) > 0);

        for stranger in [&other, farm.client()] {
            storage_keeps_it(stranger, digest, &action, &outcome);
            worker_keeps_it(stranger, digest, &action);
        }
        // Who has it, or is its owner, is not in anybody's way.
        let again = one.run(&action).success();
        assert!(again.cached);
        let own = other.run(&action).success();
        assert_eq!((own.cached, own.stdout), (false, secret));
        farm.stop();
    }
}

fn storage_keeps_it(stranger: &Client, secret: Digest, action: &Action, outcome: &Outcome) {
    let inner = stranger.inner();
    let instance = inner.instance();
    let (digest, messages) = action.blobs();
    let message = messages.iter().find(|(named, _)| *named == digest);
    let message = message.expect("the action is among its blobs").1.clone();
    let message = rev2::Action::decode(message).expect("an Action");
    let mut all: Vec<Digest> = messages.iter().map(|(digest, _)| *digest).collect();
    let copy = outcome.output("copy").digest.as_ref();
    all.push(Digest::from_wire(DigestFunction::Sha256, copy).expect("a digest"));
    all.extend([digest, secret]);
    all.sort_unstable();
    all.dedup();
    stranger.block_on(async {
        let found = inner.blobs().find_missing(instance, &all).await;
        assert_eq!(found.expect("an answer"), all);
        for read in inner.blobs().read_batch(instance, &all).await.expect("one") {
            assert!(matches!(read, Err(storage::Error::NotFound(_))), "{read:?}");
        }
        for digest in &all {
            let Err(error) = inner.blobs().read(instance, *digest, 0, None).await else {
                panic!("{digest} can be read");
            };
            assert!(matches!(error, storage::Error::NotFound(_)), "{error}");
        }
        let mut cas = ContentAddressableStorageClient::new(inner.channel());
        let tree = rev2::GetTreeRequest {
            instance_name: instance.to_string(),
            root_digest: message.input_root_digest.clone(),
            ..Default::default()
        };
        let refused = match cas.get_tree(tree).await {
            Ok(stream) => stream.into_inner().message().await.err(),
            Err(status) => Some(status),
        };
        assert_eq!(refused.map(|status| status.code()), Some(Code::NotFound));
        let result = rev2::GetActionResultRequest {
            instance_name: instance.to_string(),
            action_digest: Some(digest.to_wire()),
            ..Default::default()
        };
        let mut cache = ActionCacheClient::new(inner.channel());
        let refused = cache.get_action_result(result).await;
        assert_eq!(
            refused.map_err(|status| status.code()).err(),
            Some(Code::NotFound)
        );
    });
}

/// An action of the stranger's own, whole but for the secret, which it only names.
fn worker_keeps_it(stranger: &Client, secret: Digest, action: &Action) {
    let refused = stranger.run_digest(action.blobs().0);
    assert_eq!(
        refused.status.code(),
        Code::FailedPrecondition,
        "{refused:#?}"
    );
    let salted = action.clone().salt("the stranger's");
    let (digest, blobs) = salted.blobs();
    let named = blobs.into_iter().filter(|(digest, _)| *digest != secret);
    stranger.upload(named.collect());
    let subject = format!("blobs/{}/{}", secret.hash(), secret.size());
    assert_eq!(missing(&stranger.run_digest(digest)), [subject]);
}

//! What becomes of layers that are not placed after all.

use std::pin::pin;
use std::sync::{Arc, mpsc};

use proto::InstanceName;

use super::super::tests::{Fixture, LIMITS, folder};
use crate::cache::Tenant;
use crate::files;
use crate::root::{self, Materialise, Plan};

async fn begun_and_given_up() {
    let fixture = Fixture::new(LIMITS, 10_000);
    let tree = (0..20).flat_map(|n| folder(&format!("a/{n}"), 10));
    let root = fixture.subtree(&tree.collect()).await;
    let plan = Arc::new(Plan::new(&root, &[]).unwrap());
    let (instance, cache) = (InstanceName::empty(), &fixture.cache);
    let mut pins = cache.pin(plan.keys(Tenant::SHARED));
    cache.complete(&instance, &mut pins).await.unwrap();
    let target = tempfile::tempdir().unwrap();
    let directory = Arc::new(files::open_configured(target.path()).unwrap());
    // The only thread there is for it has something else to do.
    let (release, wait) = mpsc::channel::<()>();
    let busy = tokio::task::spawn_blocking(move || wait.recv());
    {
        let how = Materialise::Hardlink;
        let building = pin!(root::build(cache, &instance, plan, directory, how));
        tokio::select! {
            biased;
            _ = building => panic!("made"),
            () = std::future::ready(()) => {}
        }
    }
    release.send(()).unwrap();
    busy.await.unwrap().unwrap();
    tokio::task::spawn_blocking(|| ()).await.unwrap();
    assert_eq!(std::fs::read_dir(target.path()).unwrap().count(), 0);
}

#[test]
fn what_nobody_waits_for_any_more_is_not_made() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).build();
    runtime.unwrap().block_on(begun_and_given_up());
}

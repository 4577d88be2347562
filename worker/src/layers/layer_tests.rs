//! What becomes of layers that are not placed after all.

use std::sync::Arc;

use proto::InstanceName;

use super::super::tests::{Fixture, LIMITS, folder};
use super::Remains;
use crate::cache::Tenant;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_layer_that_is_given_up_while_it_is_made_is_removed() {
    let fixture = Fixture::new(LIMITS, 100_000);
    let folders = (0..300).map(|n| folder(&format!("a/{n}"), 10));
    let root = fixture.subtree(&folders.flatten().collect()).await;
    let (instance, tenant) = (InstanceName::empty(), Tenant::SHARED);
    let made = fixture.directory.path().join("build/layers");
    let count = || std::fs::read_dir(&made).map_or(0, Iterator::count);
    for _ in 0..5 {
        let chosen = fixture.layers.choose(tenant, &root, &[]).unwrap();
        let mut pins = fixture.layers.pin(tenant, &chosen).unwrap();
        fixture.cache.complete(&instance, &mut pins).await.unwrap();
        let (layers, instance) = (Arc::clone(&fixture.layers), instance.clone());
        let placing = tokio::spawn(async move {
            let placed = layers.place(&instance, &chosen.layers).await;
            placed.map(drop)
        });
        while count() == 0 && !placing.is_finished() {
            tokio::task::yield_now().await;
        }
        placing.abort();
        let _ = placing.await;
        let left = fixture.layers.close();
        tokio::task::spawn_blocking(|| left.into_iter().for_each(Remains::remove))
            .await
            .unwrap();
        while count() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
    }
}

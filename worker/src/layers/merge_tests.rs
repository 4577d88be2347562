//! What is put together of a layered root, on a real disk. The upper directory is made
//! here as overlayfs leaves it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use proto::{InstanceName, RelativePath};

use super::super::tests::{Fixture, LIMITS, Laid, Tree, folder};
use super::merge;
use crate::Error;
use crate::cache::Tenant;
use crate::files;
use crate::root::{Inputs, Materialise, Means};
use crate::runner::Runner;
use crate::testing::{Manners, start_runner};

/// Puts these outputs of a root together, after a command that left `upper`.
async fn gather(
    fixture: &Fixture,
    tree: &Tree,
    laid: &Laid,
    upper: &Path,
    places: &[&str],
    entries: usize,
) -> Result<(), Error> {
    let root = fixture.subtree(tree).await;
    let places: Vec<_> = places
        .iter()
        .map(|path| RelativePath::new(path).unwrap())
        .collect();
    let open = |path: &Path| files::open_configured(path).unwrap();
    let fresh = open(&laid.directories[0]);
    let cache = Arc::clone(&fixture.cache);
    let upper = open(upper);
    merge(
        &cache,
        Tenant::SHARED,
        &upper,
        &fresh,
        &root,
        entries,
        &places,
    )
}

#[tokio::test]
async fn what_hides_an_input_of_an_earlier_root_is_no_output() {
    let mut fixture = Fixture::new(LIMITS, 10_000);
    let mut tree = folder("d", 150);
    tree.extend(folder("d/sub", 50));
    let plain = tree.clone();
    for name in ["d/old", "d/sub/old", "d/dir/old"] {
        tree.insert(name.into(), "old".into());
    }
    fixture.lay(&tree, &[]).await.unwrap();
    let upper = fixture.directory.path().join("upper");
    std::fs::create_dir(&upper).unwrap();
    for places in [&["d/old", "d/dir"][..], &["d"]] {
        let laid = fixture.lay(&plain, &["d"]).await.unwrap();
        let fresh = &laid.directories[0];
        let there = |name: &str| fresh.join(name).symlink_metadata().is_ok();
        assert!(there("d/old") && there("d/dir"), "nothing was hidden");
        let gathered = gather(&fixture, &plain, &laid, &upper, places, 1000);
        gathered.await.unwrap();
        assert!(!there("d/old") && !there("d/dir"), "{places:?}");
        assert_eq!(there("d/sub/old"), places.len() > 1);
        assert_eq!(there("d/sub/7"), places.len() == 1);
    }
}

#[tokio::test]
async fn no_more_of_a_directory_is_read_than_outputs_may_have() {
    let mut fixture = Fixture::new(LIMITS, 10_000);
    let tree = folder("d", 150);
    let laid = fixture.lay(&tree, &["d"]).await.unwrap();
    let upper = fixture.directory.path().join("upper");
    std::fs::create_dir_all(upper.join("d")).unwrap();
    for name in 0..20 {
        std::fs::write(upper.join(format!("d/new{name}")), "").unwrap();
    }
    let gathered = gather(&fixture, &tree, &laid, &upper, &["d"], 19).await;
    assert!(
        matches!(gathered, Err(Error::Limit { limit: 19, .. })),
        "{gathered:?}"
    );
    let gathered = gather(&fixture, &tree, &laid, &upper, &["d"], 20).await;
    gathered.unwrap();
    assert!(laid.directories[0].join("d/new7").exists());
}

/// Where what the command wrote goes, it is the worker's, whatever its mode.
#[tokio::test]
async fn what_is_put_together_is_out_of_the_reach_of_others() {
    let fixture = Fixture::new(LIMITS, 10_000);
    let folder_of_all = fixture.directory.path();
    let peer = start_runner(folder_of_all, Manners::default());
    let address = format!("unix:{}", folder_of_all.join("runner").display());
    let runner = Runner::connect(&address.parse().unwrap()).await.unwrap();
    let (cache, layers) = (&fixture.cache, &fixture.layers);
    let build = layers.builds.make(None, Arc::new(runner), false).await;
    let build = build.unwrap();
    let root = fixture.subtree(&folder("d", 150)).await;
    let (instance, output) = (InstanceName::empty(), RelativePath::new("d").unwrap());
    let means = Means {
        files: Materialise::Hardlink,
        layers: true,
    };
    let needed = vec![output.clone()];
    let inputs = Inputs::plan(cache, layers, &instance, root, needed, means).await;
    let mut inputs = inputs.unwrap();
    let made = inputs.make(cache, layers, &instance, &build).await.unwrap();
    assert!(made.is_some(), "no overlay");
    let own = folder_of_all.join("build").join(build.name());
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&own), 0o777);
    let written = own.join("scratch/upper/d");
    std::fs::create_dir(&written).unwrap();
    std::fs::write(written.join("tool"), "").unwrap();
    let set_user_id = Permissions::from_mode(0o4755);
    std::fs::set_permissions(written.join("tool"), set_user_id).unwrap();
    let gathered = inputs.gather(cache, &build, vec![output], 1000).await;
    gathered.unwrap();
    assert_eq!(mode(&own.join("root/d/tool")), 0o4755);
    assert_eq!(mode(&own), 0o700);
    peer.shutdown_background();
}

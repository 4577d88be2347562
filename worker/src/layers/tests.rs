//! Layers on a real disk, over a storage in memory. What overlayfs makes of them is
//! computed here from its rules.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;
use proto::wire::rev2;
use proto::{Digest, InstanceName, RelativePath};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Layers, Subtree, Subtrees};
use crate::Error;
use crate::build_directory::BuildDirectories;
use crate::cache::{FileCache, Limits, ReplacementPolicy, Tenant};
use crate::directories::Directories;
use crate::downloads::Downloads;
use crate::files;
use crate::memory::lock;
use crate::root::{self, Materialise};
use crate::testing::FakeStorage;

/// A tree: paths and contents of files; a link begins with `->`.
pub(super) type Tree = BTreeMap<String, String>;

pub(super) struct Fixture {
    pub(super) directory: tempfile::TempDir,
    storage: Arc<FakeStorage>,
    pub(super) cache: Arc<FileCache>,
    pub(super) layers: Arc<Layers>,
    directories: Directories,
    subtrees: Subtrees,
    serial: usize,
}

/// A root as an action gets it.
pub(super) struct Laid {
    /// The first on top.
    pub(super) directories: Vec<PathBuf>,
    layers: Vec<Arc<super::Layer>>,
    /// Entries made for this root alone.
    entries: u64,
}

pub(super) const LIMITS: Limits = Limits {
    bytes: 1 << 30,
    files: 100_000,
    policy: ReplacementPolicy::LeastRecentlyUsed,
    tenant_components: 0,
    writable: false,
};

impl Fixture {
    pub(super) fn new(limits: Limits, entries: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cache", "build", "fresh"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        let storage = FakeStorage::new();
        let downloads = Arc::new(Downloads::new(8));
        let path = |name: &str| directory.path().join(name);
        let builds = BuildDirectories::open(&path("build"), 8).unwrap();
        let opened = FileCache::open(
            &path("cache"),
            limits,
            storage.clone(),
            Arc::clone(&downloads),
        );
        let cache = opened.unwrap();
        Self {
            directories: Directories::new(storage.clone(), downloads, 1 << 20),
            layers: Arc::new(Layers::new(Arc::clone(&cache), builds, entries)),
            subtrees: Subtrees::default(),
            serial: 0,
            directory,
            storage,
            cache,
        }
    }

    /// Stores the messages and files of a tree.
    fn store(&self, tree: &Tree) -> Digest {
        let mut folders: BTreeMap<&str, Tree> = BTreeMap::new();
        let mut message = rev2::Directory::default();
        for (path, content) in tree {
            if let Some((folder, rest)) = path.split_once('/') {
                let below = folders.entry(folder).or_default();
                below.insert(rest.into(), content.clone());
            } else if let Some(target) = content.strip_prefix("->") {
                message.symlinks.push(rev2::SymlinkNode {
                    name: path.clone(),
                    target: target.into(),
                    ..Default::default()
                });
            } else {
                let digest = self.storage.put(content.clone().into_bytes());
                message.files.push(rev2::FileNode {
                    name: path.clone(),
                    digest: Some(digest.to_wire()),
                    is_executable: content.ends_with('x'),
                    ..Default::default()
                });
            }
        }
        for (name, below) in folders {
            message.directories.push(rev2::DirectoryNode {
                name: name.into(),
                digest: Some(self.store(&below).to_wire()),
            });
        }
        self.storage.put(message.encode_to_vec())
    }

    pub(super) async fn subtree(&self, tree: &Tree) -> Arc<Subtree> {
        let root = self.store(tree);
        let (instance, tenant) = (InstanceName::empty(), Tenant::SHARED);
        let loading = self
            .subtrees
            .load(&self.directories, tenant, &instance, root);
        let loaded = loading.await.unwrap();
        self.subtrees.assemble(tenant, loaded).unwrap()
    }

    /// Makes a root of a tree.
    pub(super) async fn lay(&mut self, tree: &Tree, needed: &[&str]) -> Result<Laid, Error> {
        let root = self.subtree(tree).await;
        let (instance, tenant) = (InstanceName::empty(), Tenant::SHARED);
        let needed: Vec<_> = needed
            .iter()
            .map(|path| RelativePath::new(path).unwrap())
            .collect();
        let chosen = self.layers.choose(tenant, &root, &needed)?;
        let mut pins = self.layers.pin(tenant, &chosen)?;
        self.cache.complete(&instance, &mut pins).await?;
        let names = self.layers.place(&instance, &chosen.layers).await?;
        self.serial += 1;
        let fresh = self.directory.path().join(format!("fresh/{}", self.serial));
        std::fs::create_dir(&fresh).unwrap();
        let target = Arc::new(files::open_configured(&fresh).unwrap());
        let entries = chosen.plan.entries;
        let plan = Arc::new(chosen.plan);
        let how = Materialise::Hardlink;
        root::build(&self.cache, &instance, plan, target, how).await?;
        let build = self.directory.path().join("build");
        let lower = names.iter().map(|name| build.join(name));
        Ok(Laid {
            directories: std::iter::once(fresh).chain(lower).collect(),
            layers: chosen.layers,
            entries,
        })
    }

    fn usage(&self) -> (usize, u64) {
        lock(&self.layers.known).usage()
    }
}

/// What overlayfs shows of directories that lie over one another, the first on top.
fn shown(directories: &[PathBuf]) -> Tree {
    let mut tree = Tree::new();
    look(directories, "", &mut tree);
    tree
}

fn look(directories: &[PathBuf], prefix: &str, tree: &mut Tree) {
    let list = |path: &PathBuf| std::fs::read_dir(path).unwrap();
    let names: BTreeSet<String> = directories
        .iter()
        .flat_map(list)
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in names {
        let path = format!("{prefix}{name}");
        let found = directories.iter().map(|directory| directory.join(&name));
        let found: Vec<_> = found
            .filter(|path| path.symlink_metadata().is_ok())
            .collect();
        let top = found[0].symlink_metadata().unwrap();
        if top.is_dir() {
            // Down to the first that is no directory.
            let merged: Vec<_> = found
                .into_iter()
                .take_while(|path| path.symlink_metadata().unwrap().is_dir())
                .collect();
            look(&merged, &format!("{path}/"), tree);
        } else if top.is_symlink() {
            let target = std::fs::read_link(&found[0]).unwrap();
            tree.insert(path, format!("->{}", target.display()));
        } else if top.file_type().is_char_device() {
            assert_eq!(top.rdev(), 0);
        } else {
            tree.insert(path, std::fs::read_to_string(&found[0]).unwrap());
        }
    }
}

/// Whether overlayfs shows a directory there: on each level the first that has the
/// name decides.
fn has_directory(directories: &[PathBuf], path: &str) -> bool {
    let ends = path.match_indices('/').map(|(end, _)| end);
    ends.chain([path.len()]).all(|end| {
        let all = directories.iter().map(|top| top.join(&path[..end]));
        let mut found = all.filter_map(|path| path.symlink_metadata().ok());
        found.next().is_some_and(|stat| stat.is_dir())
    })
}

pub(super) fn folder(name: &str, files: u32) -> Tree {
    let file = |n: u32| (format!("{name}/{n}"), format!("{name} {n}"));
    (0..files).map(file).collect()
}

#[tokio::test]
async fn what_was_there_before_is_not_made_again() {
    let mut fixture = Fixture::new(LIMITS, 10_000);
    let mut tree = folder("a", 100);
    tree.extend(folder("b/c", 100));
    tree.insert("link".into(), "->a/1".into());
    let first = fixture.lay(&tree, &[]).await.unwrap();
    assert_eq!(shown(&first.directories), tree);
    assert_eq!((first.entries, first.layers.len()), (1, 1));
    let again = fixture.lay(&tree, &["b/c", "out/deep"]).await.unwrap();
    assert!(Arc::ptr_eq(&first.layers[0], &again.layers[0]));
    // What outputs need is there too, and no more than that.
    assert!(again.directories[0].join("out/deep").is_dir());
    assert_eq!(again.entries, 1 + 1 + 2);
    // Of one file that is another, one that is gone and one that is new, only these.
    tree.insert("a/7".into(), "another".into());
    tree.insert("new/file".into(), "new".into());
    tree.remove("b/c/3");
    tree.insert("link".into(), "file now".into());
    let near = fixture.lay(&tree, &["b/c"]).await.unwrap();
    assert_eq!(shown(&near.directories), tree);
    assert!(Arc::ptr_eq(&first.layers[0], &near.layers[0]));
    assert_eq!(near.entries, 1 + 2 + 2 + 2 + 2);
    assert_eq!(fixture.usage().0, 1);
}

#[tokio::test]
async fn layers_come_to_lie_where_what_stays_the_same_is() {
    let mut fixture = Fixture::new(LIMITS, 10_000);
    let tools = folder("tools/bin", 300);
    let tree = |name: &str| {
        let mut tree = tools.clone();
        tree.extend(folder(&format!("src/{name}"), 400));
        tree
    };
    for name in ["first", "second"] {
        let laid = fixture.lay(&tree(name), &[]).await.unwrap();
        assert_eq!(shown(&laid.directories), tree(name));
    }
    // The tools were linked twice and never will be again.
    let before = fixture.usage().1;
    let laid = fixture.lay(&tree("third"), &[]).await.unwrap();
    assert_eq!(shown(&laid.directories), tree("third"));
    assert!(fixture.usage().1 - before < 450, "{:?}", fixture.usage());
}

#[tokio::test]
async fn a_file_where_a_directory_is_needed_is_refused_in_a_layer_too() {
    let mut fixture = Fixture::new(LIMITS, 10_000);
    let tree = folder("a", 100);
    for _ in 0..2 {
        let refused = fixture.lay(&tree, &["a/7/out"]).await;
        let Err(Error::InTheWay { path }) = refused else {
            panic!("not refused");
        };
        assert_eq!(path, "a/7");
    }
}

#[tokio::test]
async fn what_a_layer_has_too_much_may_be_needed_by_outputs() {
    for needed in ["in/gen", "in/gen/deep", "in/sub/gen"] {
        let mut fixture = Fixture::new(LIMITS, 10_000);
        let mut tree = folder("in", 150);
        tree.extend(folder("in/sub", 50));
        let plain = tree.clone();
        tree.insert("in/gen/x".into(), "x".into());
        tree.insert("in/sub/gen".into(), "y".into());
        fixture.lay(&tree, &[]).await.unwrap();
        let laid = fixture.lay(&plain, &[needed]).await.unwrap();
        assert_eq!(shown(&laid.directories), plain);
        assert!(has_directory(&laid.directories, needed), "{needed}");
    }
}

#[tokio::test]
async fn layers_give_way_when_there_are_too_many_but_not_those_in_use() {
    let mut fixture = Fixture::new(LIMITS, 250);
    let tree = |name: &str| folder(name, 100);
    let used = fixture.lay(&tree("used"), &[]).await.unwrap();
    for name in ["a", "b", "c", "d"] {
        let laid = fixture.lay(&tree(name), &[]).await.unwrap();
        assert_eq!(shown(&laid.directories), tree(name));
        assert!(fixture.usage().1 <= 250, "{:?}", fixture.usage());
    }
    assert_eq!(shown(&used.directories), tree("used"));
    // All room is taken by what is in use: others get a layer for themselves alone.
    let mut fixture = Fixture::new(LIMITS, 150);
    let used = fixture.lay(&tree("used"), &[]).await.unwrap();
    let other = fixture.lay(&tree("other"), &[]).await.unwrap();
    assert_eq!(shown(&other.directories), tree("other"));
    assert_eq!(shown(&used.directories), tree("used"));
    assert!(fixture.usage().1 <= 150, "{:?}", fixture.usage());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_cache_takes_back_what_layers_hold() {
    let limits = Limits {
        files: 150,
        ..LIMITS
    };
    let mut fixture = Fixture::new(limits, 10_000);
    let relief = tokio::spawn(Layers::relieve(Arc::downgrade(&fixture.layers)));
    for name in ["a", "b", "c"] {
        let laid = fixture.lay(&folder(name, 100), &[]).await.unwrap();
        assert_eq!(shown(&laid.directories), folder(name, 100));
    }
    let files = || {
        let all = std::fs::read_dir(fixture.directory.path().join("cache")).unwrap();
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name();
        let names = all.map(|entry| name(entry).into_string().unwrap());
        names.filter(|name| name.contains('-')).count()
    };
    // Two layers are removed, in the background.
    while files() > 150 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let left = fixture.layers.close();
    for remains in left {
        remains.remove();
    }
    relief.abort();
    let _ = relief.await;
    let layers = fixture.directory.path().join("build/layers");
    while std::fs::read_dir(&layers).unwrap().count() > 0 {
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_that_need_the_same_layer_make_it_once() {
    let fixture = Fixture::new(LIMITS, 10_000);
    let root = fixture.subtree(&folder("a", 200)).await;
    let (instance, tenant) = (InstanceName::empty(), Tenant::SHARED);
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (layers, cache) = (Arc::clone(&fixture.layers), Arc::clone(&fixture.cache));
            let (root, instance) = (Arc::clone(&root), instance.clone());
            tokio::spawn(async move {
                let chosen = layers.choose(tenant, &root, &[]).unwrap();
                let mut pins = layers.pin(tenant, &chosen).unwrap();
                cache.complete(&instance, &mut pins).await.unwrap();
                layers.place(&instance, &chosen.layers).await.unwrap()
            })
        })
        .collect();
    let mut names = BTreeSet::new();
    for task in tasks {
        names.extend(task.await.unwrap());
    }
    assert_eq!(names.len(), 1);
    let layers = std::fs::read_dir(fixture.directory.path().join("build/layers"));
    assert_eq!(layers.unwrap().count(), 1);
}

/// Trees that change at random, in small and in large, are always shown as they are,
/// and what their layers hold of cached files is only links.
#[tokio::test]
async fn whatever_changes_every_root_is_what_was_asked_for() {
    for seed in 0..4 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut fixture = Fixture::new(LIMITS, random.random_range(200..3000));
        let mut tree = Tree::new();
        let mut held = Vec::new();
        for _ in 0..40 {
            change(&mut tree, &mut random);
            let needed: Vec<_> = (0..random.random_range(0..3))
                .map(|_| some(&mut random))
                .filter(|path| is_free(&tree, path))
                .collect();
            let names: Vec<_> = needed.iter().map(String::as_str).collect();
            let laid = fixture.lay(&tree, &names).await.unwrap();
            assert_eq!(shown(&laid.directories), tree, "seed {seed}");
            for path in names {
                assert!(has_directory(&laid.directories, path), "seed {seed}");
            }
            held.push((laid, tree.clone()));
            let place = random.random_range(0..held.len());
            let (laid, tree) = &held[place];
            assert_eq!(shown(&laid.directories), *tree, "seed {seed}");
            if held.len() > 4 {
                held.swap_remove(place);
            }
        }
    }
}

/// A path.
fn some(random: &mut StdRng) -> String {
    let depth = random.random_range(1..4);
    let names = (0..depth).map(|_| random.random_range(0..6).to_string());
    names.collect::<Vec<_>>().join("/")
}

/// Whether neither a file nor a link is at a path, or above it.
fn is_free(tree: &Tree, path: &str) -> bool {
    let above = path.match_indices('/').map(|(end, _)| &path[..end]);
    !above.chain([path]).any(|path| tree.contains_key(path))
}

fn change(tree: &mut Tree, random: &mut StdRng) {
    let below = |path: &str, other: &str| {
        other == path
            || other
                .strip_prefix(path)
                .is_some_and(|rest| rest.starts_with('/'))
    };
    for _ in 0..random.random_range(1..4) {
        let path = some(random);
        match random.random_range(0..6) {
            // A directory, or whatever is there, goes.
            0 => tree.retain(|other, _| !below(&path, other)),
            1 => {
                for n in 0..random.random_range(10..80) {
                    insert(tree, &format!("{path}/f{n}"), random);
                }
            }
            _ => insert(tree, &path, random),
        }
    }
}

/// Puts a file or link at a path, in the place of what is in its way.
fn insert(tree: &mut Tree, path: &str, random: &mut StdRng) {
    let mut parents: Vec<&str> = Vec::new();
    for (end, _) in path.match_indices('/') {
        parents.push(&path[..end]);
    }
    let inside = format!("{path}/");
    tree.retain(|other, _| !parents.contains(&other.as_str()) && !other.starts_with(&inside));
    let content = match random.random_range(0..8) {
        0 => "->somewhere".into(),
        n => format!("{} {}", n, if n == 1 { "x" } else { "" }),
    };
    tree.insert(path.into(), content);
}

#[tokio::test]
async fn a_root_that_outputs_make_deep_gets_no_layers() {
    let fixture = Fixture::new(LIMITS, 10_000);
    let root = fixture.subtree(&folder("a", 200)).await;
    let worthwhile = |levels: usize| {
        let path = RelativePath::new(&"d/".repeat(levels)).unwrap();
        fixture.layers.are_worthwhile(&root, &[path])
    };
    assert!(worthwhile(super::DEEPEST));
    assert!(!worthwhile(super::DEEPEST + 1));
    // Nor does the longest path overflow a stack.
    let longest = RelativePath::new(&"d/".repeat(2048)).unwrap();
    fixture
        .layers
        .choose(Tenant::SHARED, &root, &[longest])
        .unwrap();
}

#[tokio::test]
async fn a_known_subtree_is_read_once() {
    let fixture = Fixture::new(LIMITS, 0);
    let mut tree = folder("a", 50);
    let first = fixture.subtree(&tree).await;
    tree.insert("b/new".into(), "new".into());
    let second = fixture.subtree(&tree).await;
    assert!(Arc::ptr_eq(&first.children[0], &second.children[0]));
    assert_eq!((first.entries, second.entries), (52, 54));
    assert_eq!(second.depth, 2);
    assert!(!fixture.layers.are_worthwhile(&second, &[]), "switched off");
}

//! Directory trees in memory, each subtree once, however many roots have it.
//!
//! What was said of a subtree before holds as long as its digest is the same, so
//! that an unchanged tree of any size is planned without being looked into.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, Weak};

use proto::{Digest, InstanceName};

use crate::Error;
use crate::cache::Tenant;
use crate::directories::{Directories, MAXIMUM_DEPTH, Tree};
use crate::directory::{Directory, FileEntry};
use crate::memory::lock;

/// A directory and everything below it.
pub(crate) struct Subtree {
    pub(crate) digest: Digest,
    pub(crate) directory: Arc<Directory>,
    /// In the order of `directory.directories`.
    pub(crate) children: Box<[Arc<Subtree>]>,
    /// Files, symbolic links and directories, itself among them, each as often as
    /// it occurs.
    pub(crate) entries: u64,
    /// The files among them.
    pub(crate) files: u64,
    /// Levels of directories, its own included.
    pub(crate) depth: usize,
}

/// What has a name in a directory.
pub(crate) enum Entry<'a> {
    File(FileEntry<'a>),
    Directory(&'a Arc<Subtree>),
    Symlink(&'a str),
}

/// Entries of a small tree.
const SMALL: u64 = 256;

impl Subtree {
    /// Whether going through it is a matter of microseconds.
    pub(crate) fn is_small(&self) -> bool {
        self.entries <= SMALL
    }

    /// What has this name.
    pub(crate) fn find(&self, name: &str) -> Option<Entry<'_>> {
        let directory = &self.directory;
        if let Some(file) = directory.files.find(name) {
            return Some(Entry::File(file));
        }
        let child = directory
            .directories
            .binary_search_by(|(other, _)| other.as_str().cmp(name));
        if let Ok(place) = child {
            return self.children.get(place).map(Entry::Directory);
        }
        directory
            .symlinks
            .binary_search_by(|(other, _)| other.as_str().cmp(name))
            .ok()
            .map(|place| Entry::Symlink(&directory.symlinks[place].1))
    }
}

/// The subtrees that are in use somewhere.
#[derive(Default)]
pub(crate) struct Subtrees {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    subtrees: HashMap<(Tenant, Digest), Weak<Subtree>>,
    /// At how many those that are gone are looked for.
    sweep: usize,
}

/// The messages of a root that are not known yet, and the known subtrees below.
pub(crate) struct Loaded {
    pub(crate) tree: Tree,
    known: HashMap<Digest, Arc<Subtree>>,
}

impl Subtrees {
    /// Reads the messages that a root consists of, but for those of subtrees that
    /// are known.
    ///
    /// # Errors
    /// As [`Directories::load`].
    pub(crate) async fn load(
        &self,
        directories: &Directories,
        tenant: Tenant,
        instance: &InstanceName,
        root: Digest,
    ) -> Result<Loaded, Error> {
        let mut known = HashMap::new();
        let mut is_known = |digest: &Digest| {
            let found = lock(&self.known).subtrees.get(&(tenant, *digest)).cloned();
            match found.and_then(|weak| weak.upgrade()) {
                Some(subtree) => {
                    known.insert(*digest, subtree);
                    true
                }
                None => false,
            }
        };
        let tree = directories
            .load(tenant, instance, root, &mut is_known)
            .await?;
        if tree.missing.is_empty() {
            return Ok(Loaded { tree, known });
        }
        // Whoever is told what is missing is told all of it.
        let tree = directories
            .load(tenant, instance, root, &mut |_| false)
            .await?;
        let known = HashMap::new();
        Ok(Loaded { tree, known })
    }

    /// Puts the messages of a complete root together.
    ///
    /// # Errors
    /// The root is too deep.
    pub(crate) fn assemble(&self, tenant: Tenant, loaded: Loaded) -> Result<Arc<Subtree>, Error> {
        let Loaded { tree, mut known } = loaded;
        let mut made = Vec::new();
        // Each is put together when all its children are.
        let mut stack = vec![tree.root];
        while let Some(digest) = stack.last().copied() {
            if known.contains_key(&digest) {
                stack.pop();
                continue;
            }
            let Some(directory) = tree.directories.get(&digest) else {
                return Err(Error::Internal(format!("directory {digest} was not read")));
            };
            let below = directory.directories.iter().map(|(_, child)| child);
            let before = stack.len();
            stack.extend(below.clone().filter(|child| !known.contains_key(child)));
            if stack.len() > before {
                continue;
            }
            let children: Box<[_]> = below
                .filter_map(|child| known.get(child).cloned())
                .collect();
            let own = 1 + directory.files.len() + directory.symlinks.len();
            let subtree = Subtree {
                digest,
                directory: Arc::clone(directory),
                entries: children
                    .iter()
                    .fold(own as u64, |sum, child| sum.saturating_add(child.entries)),
                files: children
                    .iter()
                    .fold(directory.files.len() as u64, |sum, child| {
                        sum.saturating_add(child.files)
                    }),
                depth: 1 + children.iter().map(|child| child.depth).max().unwrap_or(0),
                children,
            };
            if subtree.depth > MAXIMUM_DEPTH {
                return Err(Error::Limit {
                    what: "depth of the input root".into(),
                    limit: MAXIMUM_DEPTH as u64,
                });
            }
            let subtree = Arc::new(subtree);
            made.push(((tenant, digest), Arc::downgrade(&subtree)));
            known.insert(digest, subtree);
            stack.pop();
        }
        let root = known.remove(&tree.root);
        let mut state = lock(&self.known);
        state.subtrees.extend(made);
        if state.subtrees.len() > state.sweep {
            state.subtrees.retain(|_, weak| weak.strong_count() > 0);
            state.sweep = 2 * state.subtrees.len() + 1024;
        }
        root.ok_or_else(|| Error::Internal("an input root was not put together".into()))
    }
}

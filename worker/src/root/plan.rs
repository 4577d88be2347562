//! What an input root is made of, before anything is made.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use proto::{Component, RelativePath};

use crate::Error;
use crate::cache::{Key, Tenant};
use crate::directories::Tree;
use crate::directory::Directory;

/// Files, directories and links of an input root. A tree of few messages can
/// name the same one over and over and so be exponentially large.
const MAXIMUM_ENTRIES: u64 = 4_000_000;

/// The directories of an input root, in depth-first order: a directory comes
/// after its parent and before the parent's next child, so that any stretch of
/// the list is built with the descriptors of one path.
pub(crate) struct Plan {
    pub(crate) directories: Vec<Planned>,
    /// Files, symbolic links and directories.
    pub(crate) entries: u64,
}

/// One directory to make.
pub(crate) struct Planned {
    /// Its place in the list; the root's own for the root.
    pub(crate) parent: usize,
    /// None for the root.
    pub(crate) name: Option<Component>,
    /// Files and links to put into it; none where only outputs need it.
    pub(crate) content: Option<Arc<Directory>>,
}

/// Directories that must be there, as a tree.
#[derive(Default)]
struct Needed(BTreeMap<Component, Needed>);

impl Needed {
    fn of(paths: &[RelativePath]) -> Self {
        let mut root = Self::default();
        for path in paths {
            let mut at = &mut root;
            for component in path.components() {
                at = at.0.entry(component.clone()).or_default();
            }
        }
        root
    }
}

impl Plan {
    /// The plan of a complete tree, with these directories added where the tree
    /// has them not.
    ///
    /// # Errors
    /// A file or symbolic link lies where a directory is needed; the tree is too
    /// large.
    pub(crate) fn new(tree: &Tree, needed: &[RelativePath]) -> Result<Self, Error> {
        let needed = Needed::of(needed);
        let none = Needed::default();
        let mut plan = Self {
            directories: Vec::new(),
            entries: 0,
        };
        let root = tree.directories.get(&tree.root).cloned();
        let mut stack = vec![(0, None::<Component>, root, &needed)];
        while let Some((parent, name, content, needed)) = stack.pop() {
            let place = plan.directories.len();
            if let Some(directory) = &content {
                plan.entries += (directory.files.len() + directory.symlinks.len()) as u64;
                for (child, digest) in directory.directories.iter().rev() {
                    let below = tree.directories.get(digest).cloned();
                    let needed = needed.0.get(child).unwrap_or(&none);
                    stack.push((place, Some(child.clone()), below, needed));
                }
            }
            for (child, below) in &needed.0 {
                let known = content
                    .as_ref()
                    .map_or(Kind::Absent, |directory| kind(directory, child));
                match known {
                    Kind::Directory => {}
                    Kind::Absent => stack.push((place, Some(child.clone()), None, below)),
                    Kind::Other => {
                        let mut path = plan.path(parent, name.as_ref());
                        path.push(child.as_str().into());
                        return Err(Error::InTheWay {
                            path: path.join("/"),
                        });
                    }
                }
            }
            plan.entries += 1;
            if plan.entries > MAXIMUM_ENTRIES {
                return Err(Error::Limit {
                    what: "number of files and directories in the input root".into(),
                    limit: MAXIMUM_ENTRIES,
                });
            }
            plan.directories.push(Planned {
                parent,
                name,
                content,
            });
        }
        Ok(plan)
    }

    /// How many files there are in the tree.
    pub(crate) fn files(&self) -> u64 {
        let contents = self.directories.iter().filter_map(|d| d.content.as_ref());
        contents.map(|directory| directory.files.len() as u64).sum()
    }

    /// The cache's files that the plan needs; one may come more than once.
    pub(crate) fn keys(&self, tenant: Tenant) -> impl Iterator<Item = Key> {
        let mut messages = HashSet::new();
        let contents = self.directories.iter().filter_map(|d| d.content.as_ref());
        contents
            // The same message in many places has the same files.
            .filter(move |directory| messages.insert(Arc::as_ptr(directory)))
            .flat_map(|directory| directory.files.iter())
            .map(move |file| Key {
                tenant,
                digest: file.digest,
                executable: file.executable,
            })
    }

    fn path(&self, mut parent: usize, name: Option<&Component>) -> Vec<String> {
        let mut names: Vec<String> = name.map(ToString::to_string).into_iter().collect();
        while let Some(planned) = self.directories.get(parent)
            && let Some(name) = &planned.name
        {
            names.push(name.to_string());
            parent = planned.parent;
        }
        names.reverse();
        names
    }
}

enum Kind {
    Directory,
    Other,
    Absent,
}

fn kind(directory: &Directory, name: &Component) -> Kind {
    let by = |entry: &Component| entry.cmp(name);
    if directory
        .directories
        .binary_search_by(|(entry, _)| by(entry))
        .is_ok()
    {
        Kind::Directory
    } else if directory.files.find(name.as_str()).is_some()
        || directory
            .symlinks
            .binary_search_by(|(entry, _)| by(entry))
            .is_ok()
    {
        Kind::Other
    } else {
        Kind::Absent
    }
}

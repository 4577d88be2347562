//! What an input root is made of, before anything is made.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use proto::{Component, RelativePath};

use crate::Error;
use crate::cache::{Key, Tenant};
use crate::directory::{Directory, FileEntry};
use crate::layers::{Difference, Entry, Subtree};

/// Files, directories and links of an input root. A tree of few messages can
/// name the same one over and over and so be exponentially large.
const MAXIMUM_ENTRIES: u64 = 4_000_000;

/// The directories of an input root, in depth-first order: a directory comes
/// after its parent and before the parent's next child, so that any stretch of
/// the list is built with the descriptors of one path.
pub(crate) struct Plan {
    pub(crate) directories: Vec<Planned>,
    /// Files, symbolic links, directories, and names to hide.
    pub(crate) entries: u64,
}

/// One directory to make.
pub(crate) struct Planned {
    /// Its place in the list; the root's own for the root.
    pub(crate) parent: usize,
    /// None for the root.
    pub(crate) name: Option<Component>,
    /// What to put into it.
    content: Content,
}

/// What is put into a directory, besides other directories.
enum Content {
    /// Nothing: outputs need it, or something below it is to be made.
    Nothing,
    /// All of a message's files and links.
    All(Arc<Directory>),
    /// What a layer below lacks, or has too much.
    Part(Box<Part>),
}

struct Part {
    directory: Arc<Directory>,
    files: Vec<u32>,
    symlinks: Vec<u32>,
    removed: Vec<Component>,
}

/// Decides, for each subtree, how an input root comes by it.
pub(crate) trait Cover {
    /// Where the subtree is, as far as the decision depends on it.
    type Place: Copy;

    /// The place of a directory in the one at `place`.
    fn below(&self, place: Self::Place, name: &Component) -> Self::Place;

    /// Decides. `needed` are the directories that outputs need in it; `path` gives the
    /// names from the root down to it.
    fn choose(
        &mut self,
        place: Self::Place,
        subtree: &Arc<Subtree>,
        needed: &Needed,
        path: &dyn Fn() -> Vec<Component>,
    ) -> Choice;
}

/// How an input root comes by a subtree.
pub(crate) enum Choice {
    /// Every file of it is made.
    Make,
    /// Its own files are made, and for each subtree in it one decides again.
    Divide,
    /// It is there.
    There,
    /// Another is there, which differs by this. It does not hide a directory that
    /// outputs need ([`Needed::is_hidden`]).
    Differs(Difference),
}

/// Makes everything.
struct Everything;

impl Cover for Everything {
    type Place = ();

    fn below(&self, (): (), _: &Component) {}

    fn choose(
        &mut self,
        (): (),
        _: &Arc<Subtree>,
        _: &Needed,
        _: &dyn Fn() -> Vec<Component>,
    ) -> Choice {
        Choice::Make
    }
}

/// Directories that must be there, as a tree.
#[derive(Default)]
pub(crate) struct Needed(BTreeMap<Component, Needed>);

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

    /// Whether one of them would have the name of a whiteout: where another tree is
    /// there, which has something of that name, and the wanted one has nothing.
    pub(crate) fn is_hidden(&self, wanted: &Subtree, difference: &Difference) -> bool {
        if self.0.is_empty() {
            return false;
        }
        let mut removed = difference.removed.iter();
        if removed.any(|name| self.0.contains_key(name)) {
            return true;
        }
        difference.changed.iter().any(|(place, below)| {
            let place = *place as usize;
            let child = wanted.children.get(place);
            let named = wanted.directory.directories.get(place);
            let needed = named.and_then(|(name, _)| self.0.get(name));
            let found = needed.zip(child);
            found.is_some_and(|(needed, child)| needed.is_hidden(child, below))
        })
    }
}

/// A directory that is still to be looked at.
struct Item<'a, P> {
    parent: usize,
    name: Option<Component>,
    place: P,
    task: Task,
    needed: &'a Needed,
}

enum Task {
    /// Only outputs need it.
    Empty,
    Undecided(Arc<Subtree>),
    Decided(Arc<Subtree>, Choice),
}

impl Plan {
    /// The plan of a complete tree, with these directories added where the tree
    /// has them not.
    ///
    /// # Errors
    /// A file or symbolic link lies where a directory is needed; the tree is too
    /// large.
    pub(crate) fn new(root: &Arc<Subtree>, needed: &[RelativePath]) -> Result<Self, Error> {
        Self::covered(root, needed, &mut Everything, ())
    }

    /// The plan of what is left to be made of a tree, parts of which are there.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub(crate) fn covered<C: Cover>(
        root: &Arc<Subtree>,
        needed: &[RelativePath],
        cover: &mut C,
        place: C::Place,
    ) -> Result<Self, Error> {
        if root.entries > MAXIMUM_ENTRIES {
            return Err(too_large());
        }
        let needed = Needed::of(needed);
        let none = Needed::default();
        let mut plan = Self {
            directories: Vec::new(),
            entries: 0,
        };
        let mut stack = vec![Item {
            parent: 0,
            name: None,
            place,
            task: Task::Undecided(Arc::clone(root)),
            needed: &needed,
        }];
        while let Some(mut item) = stack.pop() {
            if let Task::Undecided(subtree) = item.task {
                let path = || plan.path(item.parent, item.name.as_ref());
                let choice = cover.choose(item.place, &subtree, item.needed, &path);
                item.task = Task::Decided(subtree, choice);
            }
            let there = matches!(item.task, Task::Decided(_, Choice::There));
            if there && item.needed.0.is_empty() && item.name.is_some() {
                continue;
            }
            plan.add(item, cover, &none, &mut stack)?;
        }
        Ok(plan)
    }

    /// How many files are made.
    pub(crate) fn files(&self) -> u64 {
        let counts = self
            .directories
            .iter()
            .map(|planned| match &planned.content {
                Content::Nothing => 0,
                Content::All(directory) => directory.files.len(),
                Content::Part(part) => part.files.len(),
            });
        counts.sum::<usize>() as u64
    }

    /// The plan of a subtree at the end of a path, with the directories of the path.
    pub(crate) fn at(path: &[Component], subtree: &Arc<Subtree>) -> Result<Self, Error> {
        let mut plan = Self::new(subtree, &[])?;
        let above = path.len();
        for planned in &mut plan.directories {
            planned.parent += above;
        }
        if let (Some(first), Some(name)) = (plan.directories.first_mut(), path.last()) {
            first.name = Some(name.clone());
            first.parent = above - 1;
        }
        let names = std::iter::once(None).chain(path.iter().cloned().map(Some));
        let chain = names.take(above).enumerate();
        let chain = chain.map(|(place, name)| Planned {
            parent: place.saturating_sub(1),
            name,
            content: Content::Nothing,
        });
        plan.directories.splice(0..0, chain);
        plan.entries += above as u64;
        Ok(plan)
    }

    /// Adds one directory, and puts those in it onto the stack.
    fn add<'a, C: Cover>(
        &mut self,
        item: Item<'a, C::Place>,
        cover: &C,
        none: &'a Needed,
        stack: &mut Vec<Item<'a, C::Place>>,
    ) -> Result<(), Error> {
        let Item {
            parent,
            name,
            place,
            task,
            needed,
        } = item;
        let index = self.directories.len();
        let mut push = |name: &Component, task, needed| {
            stack.push(Item {
                parent: index,
                name: Some(name.clone()),
                place: cover.below(place, name),
                task,
                needed,
            });
        };
        let (subtree, content) = match task {
            Task::Empty | Task::Undecided(_) => (None, Content::Nothing),
            Task::Decided(subtree, choice) => {
                let content = decide(&subtree, choice, needed, none, &mut push);
                (Some(subtree), content)
            }
        };
        for (child, below) in &needed.0 {
            let found = subtree.as_ref().map(|subtree| subtree.find(child.as_str()));
            match found.flatten() {
                Some(Entry::Directory(_)) => {}
                None => push(child, Task::Empty, below),
                Some(Entry::File(_) | Entry::Symlink(_)) => {
                    let mut path = self.path(parent, name.as_ref());
                    path.push(child.clone());
                    let path: Vec<&str> = path.iter().map(Component::as_str).collect();
                    return Err(Error::InTheWay {
                        path: path.join("/"),
                    });
                }
            }
        }
        let planned = Planned {
            parent,
            name,
            content,
        };
        self.entries += 1 + planned.count();
        if self.entries > MAXIMUM_ENTRIES {
            return Err(too_large());
        }
        self.directories.push(planned);
        Ok(())
    }

    /// The cache's files that the plan needs; one may come more than once.
    pub(crate) fn keys(&self, tenant: Tenant) -> impl Iterator<Item = Key> {
        let mut messages = HashSet::new();
        self.directories
            .iter()
            .filter(move |planned| match &planned.content {
                // The same message in many places has the same files.
                Content::All(directory) => messages.insert(Arc::as_ptr(directory)),
                _ => true,
            })
            .flat_map(Planned::files)
            .map(move |file| Key {
                tenant,
                digest: file.digest,
                executable: file.executable,
            })
    }

    /// The names from the root down to a directory in the list, and one in that.
    fn path(&self, mut parent: usize, name: Option<&Component>) -> Vec<Component> {
        let mut names: Vec<Component> = name.cloned().into_iter().collect();
        while let Some(planned) = self.directories.get(parent)
            && let Some(name) = &planned.name
        {
            names.push(name.clone());
            parent = planned.parent;
        }
        names.reverse();
        names
    }
}

/// What is made in a directory of its own, given what is decided about it; passes
/// on what is to be made below it.
fn decide<'a>(
    subtree: &Arc<Subtree>,
    choice: Choice,
    needed: &'a Needed,
    none: &'a Needed,
    push: &mut dyn FnMut(&Component, Task, &'a Needed),
) -> Content {
    let children = || {
        let names = subtree.directory.directories.iter().map(|(name, _)| name);
        names.zip(subtree.children.iter().cloned())
    };
    let below = |name: &Component| needed.0.get(name).unwrap_or(none);
    match choice {
        Choice::Make => {
            for (name, child) in children() {
                push(name, Task::Decided(child, Choice::Make), below(name));
            }
            Content::All(Arc::clone(&subtree.directory))
        }
        Choice::Divide => {
            for (name, child) in children() {
                push(name, Task::Undecided(child), below(name));
            }
            Content::All(Arc::clone(&subtree.directory))
        }
        Choice::There => {
            for (name, child) in children().filter(|(name, _)| needed.0.contains_key(name)) {
                push(name, Task::Decided(child, Choice::There), below(name));
            }
            Content::Nothing
        }
        Choice::Differs(difference) => {
            let mut added = difference.added.iter().copied().peekable();
            let mut changed = difference.changed.into_iter().peekable();
            for (place, (name, child)) in (0_u32..).zip(children()) {
                let task = if added.next_if_eq(&place).is_some() {
                    Task::Undecided(child)
                } else if let Some((_, below)) = changed.next_if(|(other, _)| *other == place) {
                    Task::Decided(child, Choice::Differs(below))
                } else if needed.0.contains_key(name) {
                    Task::Decided(child, Choice::There)
                } else {
                    continue;
                };
                push(name, task, below(name));
            }
            Content::Part(Box::new(Part {
                directory: Arc::clone(&subtree.directory),
                files: difference.files,
                symlinks: difference.symlinks,
                removed: difference.removed,
            }))
        }
    }
}

fn too_large() -> Error {
    Error::Limit {
        what: "number of files and directories in the input root".into(),
        limit: MAXIMUM_ENTRIES,
    }
}

impl Planned {
    /// The files to put into it.
    pub(crate) fn files(&self) -> impl Iterator<Item = FileEntry<'_>> {
        let (all, part) = match &self.content {
            Content::Nothing => (None, None),
            Content::All(directory) => (Some(directory.files.iter()), None),
            Content::Part(part) => (None, Some(part)),
        };
        let part = part.into_iter().flat_map(|part| {
            let places = part.files.iter();
            places.map(|place| part.directory.files.at(*place as usize))
        });
        all.into_iter().flatten().chain(part)
    }

    /// The symbolic links to put into it: names and targets.
    pub(crate) fn symlinks(&self) -> impl Iterator<Item = (&Component, &str)> {
        let (all, part) = match &self.content {
            Content::Nothing => (None, None),
            Content::All(directory) => (Some(directory.symlinks.iter()), None),
            Content::Part(part) => (None, Some(part)),
        };
        let part = part.into_iter().flat_map(|part| {
            let places = part.symlinks.iter();
            places.map(|place| &part.directory.symlinks[*place as usize])
        });
        let links = all.into_iter().flatten().chain(part);
        links.map(|(name, target)| (name, &**target))
    }

    /// The names to hide of what layers below have.
    pub(crate) fn removed(&self) -> &[Component] {
        match &self.content {
            Content::Part(part) => &part.removed,
            Content::Nothing | Content::All(_) => &[],
        }
    }

    /// How many entries are made in it, besides directories.
    pub(crate) fn count(&self) -> u64 {
        let count = match &self.content {
            Content::Nothing => 0,
            Content::All(directory) => directory.files.len() + directory.symlinks.len(),
            Content::Part(part) => part.files.len() + part.symlinks.len() + part.removed.len(),
        };
        count as u64
    }
}

//! What makes one directory tree of another.

use std::cmp::Ordering;
use std::sync::Arc;

use proto::Component;

use super::subtree::Subtree;
use crate::directory::Directory;

/// What a directory lacks and has too much, compared to another. What it has is
/// named by its places in the lists of the wanted directory's message.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Files that are not there, or are others.
    pub(crate) files: Vec<u32>,
    /// Symbolic links likewise.
    pub(crate) symlinks: Vec<u32>,
    /// Names that must go. What is replaced by something else is not among them.
    pub(crate) removed: Vec<Component>,
    /// Directories that are not there at all.
    pub(crate) added: Vec<u32>,
    /// Directories that are there and differ.
    pub(crate) changed: Vec<(u32, Difference)>,
}

/// What must be done to `base` to make `wanted` of it, and how many entries that
/// touches; none where it is more than `budget`.
pub(crate) fn between(base: &Subtree, wanted: &Subtree, budget: u64) -> Option<(Difference, u64)> {
    let mut left = budget;
    let difference = compare(base, wanted, &mut left)?;
    Some((difference, budget - left))
}

fn compare(base: &Subtree, wanted: &Subtree, left: &mut u64) -> Option<Difference> {
    let mut found = Difference::default();
    // Of the directory itself, which has to be made.
    spend(left, 1)?;
    for (place, file) in (0..).zip(wanted.directory.files.iter()) {
        let same = base.directory.files.find(file.name).is_some_and(|other| {
            other.digest == file.digest
                && other.executable == file.executable
                && other.properties == file.properties
        });
        if !same {
            spend(left, 1)?;
            found.files.push(place);
        }
    }
    for (place, (name, target)) in (0..).zip(&wanted.directory.symlinks) {
        let links = &base.directory.symlinks;
        let same = links
            .binary_search_by(|(other, _)| other.cmp(name))
            .is_ok_and(|there| links[there].1 == *target);
        if !same {
            spend(left, 1)?;
            found.symlinks.push(place);
        }
    }
    compare_children(base, wanted, left, &mut found)?;
    for name in names(&base.directory) {
        if wanted.find(name).is_none() {
            spend(left, 1)?;
            found.removed.extend(Component::new(name));
        }
    }
    Some(found)
}

/// Both lists are sorted: they are gone through side by side.
fn compare_children(
    base: &Subtree,
    wanted: &Subtree,
    left: &mut u64,
    found: &mut Difference,
) -> Option<()> {
    let mut others = base
        .directory
        .directories
        .iter()
        .zip(&base.children)
        .peekable();
    let all = wanted.directory.directories.iter().zip(&wanted.children);
    for (place, ((name, digest), child)) in (0..).zip(all) {
        while others.next_if(|((other, _), _)| other < name).is_some() {}
        match others.next_if(|((other, _), _)| other.cmp(name) == Ordering::Equal) {
            None => {
                spend(left, child.entries)?;
                found.added.push(place);
            }
            Some(((_, other), _)) if other == digest => {}
            Some((_, other)) => {
                let difference = compare(other, child, left)?;
                found.changed.push((place, difference));
            }
        }
    }
    Some(())
}

fn names(directory: &Arc<Directory>) -> impl Iterator<Item = &str> {
    let files = directory.files.iter().map(|file| file.name);
    let links = directory.symlinks.iter().map(|(name, _)| name.as_str());
    let children = directory.directories.iter().map(|(name, _)| name.as_str());
    files.chain(links).chain(children)
}

fn spend(left: &mut u64, entries: u64) -> Option<()> {
    *left = left.checked_sub(entries)?;
    Some(())
}

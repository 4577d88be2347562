//! Where things are below a build directory: each name once, however deep.

/// How much of a path an error shows: its end.
const SHOWN: usize = 1000;

/// The build directory itself.
pub(crate) const TOP: usize = 0;

/// Directories by number, each with its parent's number and its name. A tree that
/// is one directory in another thousands of times over costs no more than a flat
/// one.
pub(crate) struct Places(Vec<(usize, Box<str>)>);

/// A file: the number of its directory, and its name.
pub(crate) struct Location {
    pub(crate) place: usize,
    pub(crate) name: Box<str>,
}

impl Places {
    /// The build directory alone.
    pub(crate) fn new() -> Self {
        Self(vec![(TOP, "".into())])
    }

    /// The number of a directory in another. It gets a new one each time.
    pub(crate) fn add(&mut self, parent: usize, name: &str) -> usize {
        self.0.push((parent, name.into()));
        self.0.len() - 1
    }

    /// The number of what lies at the end of these names.
    pub(crate) fn add_all(&mut self, names: &[&str]) -> usize {
        names
            .iter()
            .fold(TOP, |parent, name| self.add(parent, name))
    }

    /// The directory that another is in.
    pub(crate) fn parent(&self, place: usize) -> usize {
        self.0[place].0
    }

    /// The last name of a directory; empty for the build directory.
    pub(crate) fn name(&self, place: usize) -> &str {
        &self.0[place].1
    }

    /// The names from one directory down to another below it.
    pub(crate) fn names(&self, from: usize, mut place: usize) -> Vec<&str> {
        let mut names = Vec::new();
        while place != from && place != TOP {
            names.push(self.name(place));
            place = self.parent(place);
        }
        names.reverse();
        names
    }

    /// A path for a person, relative to the input root where it is in there. Of a
    /// very long one only the end.
    pub(crate) fn shown(&self, mut place: usize, name: &str) -> String {
        let mut names = vec![name];
        let mut length = name.len();
        while place != TOP && length <= SHOWN {
            let (parent, name) = &self.0[place];
            if (*parent, name.as_ref()) != (TOP, "root") {
                names.push(name);
                length += name.len() + 1;
            }
            place = *parent;
        }
        if place != TOP {
            names.push("…");
        }
        names.reverse();
        names.retain(|name| !name.is_empty());
        names.join("/")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_from_the_input_root_and_not_at_any_length() {
        let mut places = Places::new();
        let root = places.add(TOP, "root");
        let mut at = places.add(root, "root");
        assert_eq!(places.shown(at, "f"), "root/f");
        assert_eq!(places.shown(TOP, "stdout"), "stdout");
        assert_eq!(places.names(root, at), ["root"]);
        for _ in 0..10_000 {
            at = places.add(at, "d");
        }
        assert_eq!(places.names(TOP, at).len(), 10_002);
        let shown = places.shown(at, "f");
        assert!(shown.starts_with("…/d/d/") && shown.ends_with("/d/f"));
        assert!(shown.len() < 2 * SHOWN);
    }
}

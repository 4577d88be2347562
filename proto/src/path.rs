//! Names and relative paths inside an action's tree.

use std::fmt;

/// One name in a directory: not empty, not `.` or `..`, without `/` and NUL, at
/// most 255 bytes (Linux `NAME_MAX`).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Component(Box<str>);

/// A normalised path below some directory: components only, possibly none.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RelativePath(Vec<Component>);

/// Most bytes of a path (Linux `PATH_MAX`).
const MAXIMUM_LENGTH: usize = 4096;

/// Why a string is no name or path inside a tree.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// A directory entry without a name.
    #[error("name is empty")]
    Empty,
    /// `.` or `..` where a name is needed.
    #[error("{0:?} is not a file name")]
    Special(String),
    /// A `/` inside a name.
    #[error("file name {0:?} contains a slash")]
    Slash(String),
    /// A NUL byte.
    #[error("path {0:?} contains a NUL byte")]
    Nul(String),
    /// A component over 255 bytes, or a path over 4096, resolved or not.
    #[error("path {0:?}… is too long")]
    TooLong(String),
    /// The path is absolute.
    #[error("path {0:?} is absolute")]
    Absolute(String),
    /// The path leaves its root by `..`.
    #[error("path {0:?} escapes its root")]
    Escapes(String),
}

impl Component {
    /// Validates a name.
    ///
    /// # Errors
    /// See [`PathError`].
    pub fn new(name: &str) -> Result<Self, PathError> {
        if name.is_empty() {
            return Err(PathError::Empty);
        }
        // First, so that no error repeats an overlong name.
        if name.len() > 255 {
            return Err(PathError::TooLong(name.chars().take(40).collect()));
        }
        if name == "." || name == ".." {
            return Err(PathError::Special(name.into()));
        }
        if name.contains('/') {
            return Err(PathError::Slash(name.into()));
        }
        if name.contains('\0') {
            return Err(PathError::Nul(name.into()));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl RelativePath {
    /// The directory itself.
    #[must_use]
    pub fn root() -> Self {
        Self::default()
    }

    /// Normalises a path: `.` and repeated slashes vanish, `..` takes back a
    /// component. The empty path is the root.
    ///
    /// # Errors
    /// The path is absolute, escapes, contains NUL or is too long.
    pub fn new(path: &str) -> Result<Self, PathError> {
        Self::root().resolve(path)
    }

    /// Resolves `path` relative to this one, as output paths are relative to the
    /// working directory but may leave it within the input root (REv2 Command).
    ///
    /// # Errors
    /// The path is absolute, escapes the root, contains NUL or is too long.
    pub fn resolve(&self, path: &str) -> Result<Self, PathError> {
        if path.len() > MAXIMUM_LENGTH {
            return Err(PathError::TooLong(path.chars().take(40).collect()));
        }
        if path.contains('\0') {
            return Err(PathError::Nul(path.into()));
        }
        if path.starts_with('/') {
            return Err(PathError::Absolute(path.into()));
        }
        let mut components = self.0.clone();
        for part in path.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    if components.pop().is_none() {
                        return Err(PathError::Escapes(path.into()));
                    }
                }
                name => components.push(Component::new(name)?),
            }
        }
        let total: usize = components.iter().map(|name| name.0.len() + 1).sum();
        if total > MAXIMUM_LENGTH + 1 {
            return Err(PathError::TooLong(path.chars().take(40).collect()));
        }
        Ok(Self(components))
    }

    /// Its components, outermost first.
    #[must_use]
    pub fn components(&self) -> &[Component] {
        &self.0
    }

    /// Whether it is the directory itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The path without its last component, and that component; none for the root.
    #[must_use]
    pub fn split_last(&self) -> Option<(Self, &Component)> {
        let (last, parent) = self.0.split_last()?;
        Some((Self(parent.to_vec()), last))
    }

    /// This path with one more component.
    #[must_use]
    pub fn child(&self, name: Component) -> Self {
        let mut components = self.0.clone();
        components.push(name);
        Self(components)
    }
}

impl fmt::Display for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Component {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Joined by `/`; the root is the empty string.
impl fmt::Display for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, component) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("/")?;
            }
            f.write_str(&component.0)?;
        }
        Ok(())
    }
}

impl fmt::Debug for RelativePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.to_string(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_no_names_are_refused() {
        assert_eq!(Component::new(""), Err(PathError::Empty));
        assert!(matches!(Component::new(".."), Err(PathError::Special(_))));
        assert!(matches!(Component::new("."), Err(PathError::Special(_))));
        assert!(matches!(Component::new("a/b"), Err(PathError::Slash(_))));
        assert!(matches!(Component::new("a\0"), Err(PathError::Nul(_))));
        assert!(matches!(
            Component::new(&"a".repeat(256)),
            Err(PathError::TooLong(_))
        ));
        assert!(matches!(
            Component::new(&"a/".repeat(256)),
            Err(PathError::TooLong(_))
        ));
        assert!(Component::new("...").is_ok());
        assert!(Component::new("-x y\n").is_ok());
    }

    #[test]
    fn paths_are_normalised_and_kept_inside() {
        let path = |text: &str| RelativePath::new(text).map(|path| path.to_string());
        assert_eq!(path("").unwrap(), "");
        assert_eq!(path(".").unwrap(), "");
        assert_eq!(path("a//b/./c/").unwrap(), "a/b/c");
        assert_eq!(path("a/../b").unwrap(), "b");
        assert!(matches!(path("/a"), Err(PathError::Absolute(_))));
        assert!(matches!(path("a/../.."), Err(PathError::Escapes(_))));
        assert!(matches!(path("a\0b"), Err(PathError::Nul(_))));
        assert!(matches!(
            path(&"a/".repeat(3000)),
            Err(PathError::TooLong(_))
        ));
    }

    #[test]
    fn outputs_may_leave_the_working_directory_but_not_the_root() {
        let working = RelativePath::new("x/y").unwrap();
        assert_eq!(working.resolve("../z").unwrap().to_string(), "x/z");
        assert!(working.resolve("../../..").is_err());
        assert!(working.resolve("../..").unwrap().is_root());
    }

    #[test]
    fn a_path_is_not_longer_for_being_relative_to_another() {
        let working = RelativePath::new(&"a/".repeat(2000)).unwrap();
        assert!(working.resolve(&"b/".repeat(48)).is_ok());
        assert!(matches!(
            working.resolve(&"b/".repeat(2000)),
            Err(PathError::TooLong(_))
        ));
        assert!(working.resolve(&"../".repeat(1000)).is_ok());
    }

    proptest! {
        #[test]
        fn a_normalised_path_is_its_own_normal_form(text in "[a-c./]{0,20}") {
            if let Ok(path) = RelativePath::new(&text) {
                prop_assert_eq!(RelativePath::new(&path.to_string()), Ok(path));
            }
        }
    }
}

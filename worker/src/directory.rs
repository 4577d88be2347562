//! One Directory message, validated, in the form in which it is kept in memory:
//! a file takes little more than its hash and its name.

use proto::path::PathError;
use proto::wire::rev2;
use proto::{Component, Digest, DigestFunction};

use crate::Error;

/// A validated Directory message: names are names, sorted, and each once.
#[derive(Debug)]
pub(crate) struct Directory {
    pub(crate) files: Files,
    /// Sorted by name.
    pub(crate) directories: Box<[(Component, Digest)]>,
    /// Names and targets, verbatim.
    pub(crate) symlinks: Box<[(Component, Box<str>)]>,
}

impl Directory {
    /// What it takes in memory, about, in bytes.
    pub(crate) fn weight(&self) -> u64 {
        let links = self.symlinks.iter();
        let links = links.map(|(name, target)| 80 + name.as_str().len() + target.len());
        let children = self.directories.iter();
        let children = children.map(|(name, _)| 128 + name.as_str().len());
        (320 + self.files.weight() + links.sum::<usize>() + children.sum::<usize>()) as u64
    }
}

/// What REv2 NodeProperties ask for beyond content and executable bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    /// Permission bits, 0 to 0777.
    pub(crate) unix_mode: Option<u32>,
    /// Seconds since 1970, and nanoseconds below a second.
    pub(crate) mtime: Option<(i64, u32)>,
}

impl Properties {
    /// Reads the standard ones; REv2 defines no others by name.
    fn new(message: &rev2::NodeProperties) -> Result<Self, &'static str> {
        let unix_mode = message.unix_mode.as_ref().map(|mode| mode.value);
        if unix_mode.is_some_and(|mode| mode & !0o7777 != 0) {
            return Err("unix_mode is not a file mode");
        }
        let mtime = match &message.mtime {
            None => None,
            Some(time) => match u32::try_from(time.nanos) {
                Ok(nanoseconds @ ..1_000_000_000) => Some((time.seconds, nanoseconds)),
                _ => return Err("mtime is not a time"),
            },
        };
        Ok(Self {
            unix_mode: unix_mode.map(|mode| mode & 0o777),
            mtime,
        })
    }

    fn is_default(&self) -> bool {
        self.unix_mode.is_none() && self.mtime.is_none()
    }
}

/// A file of a directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FileEntry<'a> {
    /// A valid [`Component`].
    pub(crate) name: &'a str,
    pub(crate) digest: Digest,
    pub(crate) executable: bool,
    pub(crate) properties: Option<Properties>,
}

/// The files of a directory, sorted by name.
#[derive(Debug)]
pub(crate) struct Files {
    function: DigestFunction,
    rows: Vec<Row>,
    /// All names, one after the other.
    names: String,
    /// All hashes, one after the other.
    hashes: Vec<u8>,
    /// Of the few files that have any, by their place.
    properties: Vec<(u32, Properties)>,
}

#[derive(Debug)]
struct Row {
    size: u64,
    /// Where the name ends; it begins where that of the row before ends.
    name_end: u32,
    executable: bool,
}

impl Files {
    fn new(function: DigestFunction) -> Self {
        Self {
            function,
            rows: Vec::new(),
            names: String::new(),
            hashes: Vec::new(),
            properties: Vec::new(),
        }
    }

    fn push(
        &mut self,
        name: &Component,
        digest: Digest,
        executable: bool,
        properties: Option<Properties>,
    ) {
        self.names.push_str(name.as_str());
        self.hashes.extend_from_slice(digest.hash_bytes());
        // Messages are much smaller than 4 GiB, and so are their names.
        let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        if let Some(properties) = properties.filter(|properties| !properties.is_default()) {
            self.properties.push((number(self.rows.len()), properties));
        }
        self.rows.push(Row {
            size: digest.size(),
            name_end: number(self.names.len()),
            executable,
        });
    }

    fn finish(mut self) -> Self {
        self.rows.shrink_to_fit();
        self.names.shrink_to_fit();
        self.hashes.shrink_to_fit();
        self.properties.shrink_to_fit();
        self
    }

    fn weight(&self) -> usize {
        let properties = self.properties.len() * size_of::<(u32, Properties)>();
        self.rows.len() * size_of::<Row>() + self.names.len() + self.hashes.len() + properties
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All of them, sorted by name.
    pub(crate) fn iter(&self) -> impl ExactSizeIterator<Item = FileEntry<'_>> {
        (0..self.len()).map(|place| self.at(place))
    }

    /// The file of a name.
    pub(crate) fn find(&self, name: &str) -> Option<FileEntry<'_>> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.name(middle).cmp(name) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Equal => return Some(self.at(middle)),
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        None
    }

    fn name(&self, place: usize) -> &str {
        let before = place
            .checked_sub(1)
            .map_or(0, |before| self.rows[before].name_end);
        &self.names[before as usize..self.rows[place].name_end as usize]
    }

    /// The file of a place in the list, which must be less than its length.
    pub(crate) fn at(&self, place: usize) -> FileEntry<'_> {
        let row = &self.rows[place];
        let length = self.function.hash_length();
        let hash = &self.hashes[place * length..(place + 1) * length];
        let properties = self
            .properties
            .binary_search_by_key(&place, |(place, _)| *place as usize);
        FileEntry {
            name: self.name(place),
            digest: Digest::from_hash(self.function, hash, row.size),
            executable: row.executable,
            properties: properties.ok().map(|found| self.properties[found].1),
        }
    }
}

/// Checks a message against REv2 Directory: file names, in strict order within
/// each list, and no name twice across the three.
pub(crate) fn validate(directory: Digest, message: &rev2::Directory) -> Result<Directory, Error> {
    let function = directory.function();
    let fault = |entry: &str, reason: String| Error::Directory {
        directory,
        entry: entry.chars().take(255).collect(),
        reason,
    };
    let name = |name: &str, previous: &mut Option<Component>| -> Result<Component, Error> {
        let component =
            Component::new(name).map_err(|error: PathError| fault(name, error.to_string()))?;
        if let Some(previous) = previous {
            match component.cmp(previous) {
                std::cmp::Ordering::Greater => {}
                std::cmp::Ordering::Equal => return Err(fault(name, "name occurs twice".into())),
                std::cmp::Ordering::Less => {
                    return Err(fault(name, format!("not sorted: comes after {previous:?}")));
                }
            }
        }
        *previous = Some(component.clone());
        Ok(component)
    };
    let digest = |entry: &str, digest: Option<&rev2::Digest>| {
        Digest::from_wire(function, digest).map_err(|error| fault(entry, error.to_string()))
    };
    let properties = |entry: &str, properties: Option<&rev2::NodeProperties>| {
        let properties = properties.map(Properties::new).transpose();
        properties.map_err(|reason| fault(entry, reason.into()))
    };
    let mut previous = None;
    let mut files = Files::new(function);
    for file in &message.files {
        let properties = properties(&file.name, file.node_properties.as_ref())?;
        let digest = digest(&file.name, file.digest.as_ref())?;
        let name = name(&file.name, &mut previous)?;
        files.push(&name, digest, file.is_executable, properties);
    }
    let files = files.finish();
    let mut previous = None;
    let directories: Box<[(Component, Digest)]> = message
        .directories
        .iter()
        .map(|child| {
            Ok((
                name(&child.name, &mut previous)?,
                digest(&child.name, child.digest.as_ref())?,
            ))
        })
        .collect::<Result<_, Error>>()?;
    let mut previous = None;
    let symlinks: Box<[(Component, Box<str>)]> = message
        .symlinks
        .iter()
        .map(|link| {
            let component = name(&link.name, &mut previous)?;
            // symlink(2): ENOENT for an empty target, ENAMETOOLONG beyond PATH_MAX.
            if link.target.is_empty() || link.target.len() > 4095 || link.target.contains('\0') {
                return Err(fault(
                    &link.name,
                    "symbolic link target is empty, too long or contains NUL".into(),
                ));
            }
            Ok((component, link.target.as_str().into()))
        })
        .collect::<Result<_, Error>>()?;
    // Within a list no name comes twice, so each is looked up in the other lists.
    let child = |name: &str| directories.binary_search_by(|(other, _)| other.as_str().cmp(name));
    for name in directories.iter().map(|(name, _)| name.as_str()) {
        if files.find(name).is_some() {
            return Err(fault(name, "name occurs twice".into()));
        }
    }
    for name in symlinks.iter().map(|(name, _)| name.as_str()) {
        if files.find(name).is_some() || child(name).is_ok() {
            return Err(fault(name, "name occurs twice".into()));
        }
    }
    // Those of directories and symbolic links are checked, but not applied.
    properties(".", message.node_properties.as_ref())?;
    Ok(Directory {
        files,
        directories,
        symlinks,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::wire::protobuf::{Timestamp, UInt32Value};

    #[test]
    fn files_come_out_as_they_went_in() {
        let function = DigestFunction::Sha1;
        let digest = |n: u32| Digest::of(function, &n.to_le_bytes());
        let mut message = rev2::Directory::default();
        for n in 0..50 {
            message.files.push(rev2::FileNode {
                name: format!("{n:0width$}", width = 2 + n as usize % 2),
                digest: Some(digest(n).to_wire()),
                is_executable: n % 3 == 0,
                node_properties: (n % 7 == 0).then(|| rev2::NodeProperties {
                    mtime: Some(Timestamp {
                        seconds: -5,
                        nanos: 7,
                    }),
                    unix_mode: Some(UInt32Value { value: 0o4640 }),
                    ..Default::default()
                }),
            });
        }
        message
            .files
            .sort_by(|one, other| one.name.cmp(&other.name));
        let directory = validate(digest(0), &message).unwrap();
        assert_eq!(directory.files.len(), 50);
        for (entry, node) in directory.files.iter().zip(&message.files) {
            assert_eq!(entry.name, node.name);
            assert_eq!(Some(entry.digest.to_wire()), node.digest);
            assert_eq!(entry.executable, node.is_executable);
            let properties = node.node_properties.as_ref().map(|_| Properties {
                unix_mode: Some(0o640),
                mtime: Some((-5, 7)),
            });
            assert_eq!(entry.properties, properties);
            let found = directory.files.find(&node.name).unwrap();
            assert_eq!(found.digest, entry.digest);
        }
        assert!(directory.files.find("1").is_none());
        assert!(directory.files.find("~").is_none());
        // Little more than the hash and the name.
        assert!(directory.weight() < 320 + 50 * (20 + 3 + 16) + 8 * 48);
    }

    #[test]
    fn properties_that_mean_nothing_are_refused() {
        let with = |mode, nanos| rev2::Directory {
            node_properties: Some(rev2::NodeProperties {
                mtime: Some(Timestamp { seconds: 0, nanos }),
                unix_mode: Some(UInt32Value { value: mode }),
                ..Default::default()
            }),
            ..Default::default()
        };
        let digest = Digest::of(DigestFunction::Sha256, b"");
        assert!(validate(digest, &with(0o755, 0)).is_ok());
        assert!(validate(digest, &with(0o10000, 0)).is_err());
        assert!(validate(digest, &with(0o755, -1)).is_err());
        assert!(validate(digest, &with(0o755, 1_000_000_000)).is_err());
    }
}

//! Which outputs a Command declares (REv2 Command.output_paths, and the older
//! output_files and output_directories).

use proto::RelativePath;
use proto::wire::rev2;
use proto::wire::rev2::command::OutputDirectoryFormat;

use crate::Error;

/// What the client says an output is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `output_paths`: whatever it turns out to be.
    Any,
    /// `output_files`.
    File,
    /// `output_directories`.
    Directory,
}

/// One declared output.
#[derive(Debug)]
pub(crate) struct Output {
    /// As the client spelled it, which is how the result names it.
    pub(crate) path: String,
    /// Where it is in the input root.
    pub(crate) place: RelativePath,
    pub(crate) kind: Kind,
}

/// The outputs of a Command, all paths valid.
#[derive(Debug)]
pub(crate) struct Declared {
    pub(crate) outputs: Vec<Output>,
    pub(crate) working_directory: RelativePath,
    /// Directory messages are wanted besides the Tree.
    pub(crate) directory_messages: bool,
}

impl Declared {
    /// Reads and validates. `force`: Directory messages are wanted in any case.
    ///
    /// # Errors
    /// A path is absolute, leaves the input root, or is no path.
    #[allow(deprecated, reason = "clients before REv2.1 send the older fields")]
    pub(crate) fn new(command: &rev2::Command, force: bool) -> Result<Self, Error> {
        let working_directory =
            RelativePath::new(&command.working_directory).map_err(|source| Error::Path {
                field: "working_directory",
                source,
            })?;
        let mut outputs = Vec::new();
        let mut add = |paths: &[String], field, kind| {
            for path in paths {
                let place = working_directory
                    .resolve(path)
                    .map_err(|source| Error::Path { field, source })?;
                if place.is_root() && kind == Kind::File {
                    return Err(Error::Output {
                        path: path.clone(),
                        reason: "the input root cannot be an output file",
                    });
                }
                outputs.push(Output {
                    path: path.clone(),
                    place,
                    kind,
                });
            }
            Ok(())
        };
        // REv2: when output_paths is used, the older fields are ignored.
        if command.output_paths.is_empty() {
            add(&command.output_files, "output_files", Kind::File)?;
            add(
                &command.output_directories,
                "output_directories",
                Kind::Directory,
            )?;
        } else {
            add(&command.output_paths, "output_paths", Kind::Any)?;
        }
        let format = OutputDirectoryFormat::try_from(command.output_directory_format);
        Ok(Self {
            outputs,
            working_directory,
            directory_messages: force
                || matches!(
                    format,
                    Ok(OutputDirectoryFormat::DirectoryOnly
                        | OutputDirectoryFormat::TreeAndDirectory)
                ),
        })
    }

    /// Where outputs are in the input root.
    pub(crate) fn places(&self) -> Vec<RelativePath> {
        let places = self.outputs.iter();
        places.map(|output| output.place.clone()).collect()
    }

    /// The directories that must be there before the command runs: the working
    /// directory, and what leads to each output.
    pub(crate) fn needed_directories(&self) -> Vec<RelativePath> {
        let parents = self.outputs.iter().filter_map(|output| {
            let (parent, _) = output.place.split_last()?;
            Some(parent)
        });
        std::iter::once(self.working_directory.clone())
            .chain(parents)
            .collect()
    }
}

#[cfg(test)]
#[allow(deprecated)]
mod tests {
    use super::*;

    fn declared(command: &rev2::Command) -> Result<Vec<(String, Kind)>, String> {
        Declared::new(command, false)
            .map(|declared| {
                let outputs = declared.outputs.iter();
                outputs
                    .map(|output| (output.place.to_string(), output.kind))
                    .collect()
            })
            .map_err(|error| error.to_string())
    }

    #[test]
    fn paths_are_relative_to_the_working_directory_and_stay_in_the_root() {
        let command = |path: &str| rev2::Command {
            working_directory: "a/b".into(),
            output_paths: vec![path.into()],
            ..Default::default()
        };
        let place = |path: &str| declared(&command(path)).map(|mut all| all.remove(0).0);
        assert_eq!(place("x").unwrap(), "a/b/x");
        assert_eq!(place("../../x").unwrap(), "x");
        assert_eq!(place("").unwrap(), "a/b");
        assert_eq!(place("../..").unwrap(), "");
        assert!(place("/x").unwrap_err().contains("absolute"));
        assert!(place("../../../x").unwrap_err().contains("escapes"));
        assert!(place("x\0").unwrap_err().contains("NUL"));
    }

    #[test]
    fn the_older_fields_count_only_without_the_newer() {
        let mut command = rev2::Command {
            output_files: vec!["f".into()],
            output_directories: vec!["d".into()],
            ..Default::default()
        };
        assert_eq!(
            declared(&command).unwrap(),
            [("f".into(), Kind::File), ("d".into(), Kind::Directory)]
        );
        command.output_paths = vec!["p".into()];
        assert_eq!(declared(&command).unwrap(), [("p".into(), Kind::Any)]);
        let root = rev2::Command {
            output_files: vec![String::new()],
            ..Default::default()
        };
        assert!(declared(&root).is_err());
    }

    #[test]
    fn the_working_directory_and_the_parents_of_outputs_are_needed() {
        let command = rev2::Command {
            working_directory: "w".into(),
            output_paths: vec!["x/y".into(), "../z".into()],
            ..Default::default()
        };
        let needed = Declared::new(&command, false).unwrap().needed_directories();
        let needed: Vec<String> = needed.iter().map(ToString::to_string).collect();
        assert_eq!(needed, ["w", "w/x", ""]);
    }
}

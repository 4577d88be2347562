//! A client's command that has ended.

use std::process::{Command, Output};

/// How a command ended and what it printed.
#[derive(Debug)]
pub struct Ran {
    /// Its exit code; none where a signal ended it.
    pub code: Option<i32>,
    /// What it printed: standard output, then standard error.
    pub text: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = [output.stdout, output.stderr].concat();
        Self {
            code: output.status.code(),
            text: String::from_utf8_lossy(&text).into_owned(),
        }
    }
}

impl Ran {
    /// Runs a command to its end.
    ///
    /// # Panics
    /// There is no such program.
    #[must_use]
    pub fn of(command: &mut Command) -> Self {
        let name = command.get_program().to_owned();
        let output = command.output();
        output
            .unwrap_or_else(|error| panic!("{}: {error}", name.display()))
            .into()
    }

    /// Checks the exit code and that these words are in what it printed.
    ///
    /// # Panics
    /// It is not so.
    #[track_caller]
    pub fn assert(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}", self.text);
        for word in words {
            assert!(self.text.contains(word), "no {word:?} in:\n{}", self.text);
        }
        self
    }
}

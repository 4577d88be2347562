//! The one-machine program; see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    hayloft::main()
}

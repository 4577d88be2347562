//! The program under test: exactly what the `hayloft` binary is.

use std::process::ExitCode;

fn main() -> ExitCode {
    hayloft::main()
}

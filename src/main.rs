//! The program `flockd`: everything it does is in the library's `cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    flockd::cli::main()
}

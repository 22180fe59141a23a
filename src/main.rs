//! The program: parse arguments and run the subcommand they name.

use std::process::ExitCode;

fn main() -> ExitCode {
    steppe::cli::main()
}

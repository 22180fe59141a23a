//! The program: parse arguments and run the subcommand they name.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Candle has a pool for elementwise operations that takes every core, pins its threads and spins; whatever it may do here
    // stays on the thread that asks.
    // SAFETY: no other thread runs yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    steppe::cli::main()
}

//! The program: parse arguments, load the configuration, start, serve.

fn main() {}

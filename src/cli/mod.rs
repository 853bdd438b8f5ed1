//! One file a subcommand.

pub fn run() -> i32 {
    0
}

//! The program that is tested, as tests start it and wait for it.
#![allow(dead_code)] // each test file uses its own part

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// `graftling`, which reads nothing and says what it says unasked.
pub fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_graftling"));
    command.stdin(Stdio::null()).env_remove("GRAFTLING_LOG");
    command
}

/// Waits until `done` holds, for five minutes at most: the machine may be busy. `what` is waited for.
#[track_caller]
pub fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(300);
    while !done() {
        assert!(Instant::now() < deadline, "waited for five minutes: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

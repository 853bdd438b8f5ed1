//! What tests cannot do on the machine at hand: told where it happens, and counted by `./tools/test`, so that it does not pass in silence.
#![allow(dead_code)] // each test file uses its own part

use std::io::Write;

/// Says that the running test, or part of it, does not run for `reason`.
pub fn not_run(reason: &str) {
    record(std::thread::current().name().unwrap_or("a test"), reason);
}

/// Says it of a test by its name. `GRAFTLING_TESTS_NOT_RUN` names the file to which a line is added.
pub fn record(test: &str, reason: &str) {
    let line = format!("not run: {test}: {reason}\n");
    // Not by `eprint`, which the harness keeps to itself where a test passes: this stands beside the test's result.
    let _ = std::io::stderr().write_all(line.as_bytes());
    let Some(path) = std::env::var_os("GRAFTLING_TESTS_NOT_RUN") else { return };
    let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
    // In one piece: several tests write at a time.
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("GRAFTLING_TESTS_NOT_RUN names a file that can be written");
}

/// The file of `GRAFTLING_TEST_MODEL`, SmolLM2-135M-Instruct as GGUF, which `./tools/test` fetches.
pub fn smollm2() -> Option<std::path::PathBuf> {
    let path = std::env::var_os("GRAFTLING_TEST_MODEL").map(Into::into);
    if path.is_none() {
        not_run("GRAFTLING_TEST_MODEL does not name SmolLM2-135M-Instruct as a GGUF file");
    }
    path
}

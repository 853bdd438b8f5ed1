//! Signals for the programs that tests start.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Makes a command listen to signals even where the tests themselves run in the background of a script, or under nohup, and so without them.
pub fn listen_to_signals(command: &mut Command) {
    // SAFETY: `signal` may be called between fork and exec.
    unsafe {
        command.pre_exec(|| {
            for signal in [libc::SIGINT, libc::SIGHUP, libc::SIGTERM] {
                libc::signal(signal, libc::SIG_DFL);
            }
            Ok(())
        });
    }
}

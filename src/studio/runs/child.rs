//! A run as a process of its own: `graftling train` on a recipe, as a person would type it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use crate::studio::events::Events;
use crate::{Error, Result};

/// Lines of what it says that are kept.
const LINES: usize = 400;

/// The process.
pub struct Child {
    process: std::process::Child,
    said: Arc<Mutex<VecDeque<String>>>,
}

impl Child {
    /// Starts `program train --config RECIPE --out OUT`, with `--resume` if it is to go on.
    ///
    /// # Errors
    /// Failed: the program cannot be started.
    pub fn start(program: &Path, recipe: &Path, out: &Path, resume: bool, events: &Events) -> Result<Self> {
        let mut command = Command::new(program);
        command.arg("train").arg("--config").arg(recipe).arg("--out").arg(out);
        if resume {
            command.arg("--resume");
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // Ctrl-C in the studio's terminal is the studio's, which then asks the run to save.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let failed = |error: std::io::Error| {
            Error::failed(program.display(), format!("cannot be started: {error}"), "start graftling by its path")
        };
        let mut process = command.spawn().map_err(failed)?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = process.stderr.take() {
            let (said, events) = (said.clone(), events.clone());
            let listen = move || listen(stderr, &said, &events);
            std::thread::Builder::new().name("run".to_string()).spawn(listen).map_err(failed)?;
        }
        Ok(Self { process, said })
    }

    /// How it ended, once it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.try_wait().ok().flatten()
    }

    /// Waits until it has ended.
    pub fn wait(&mut self) {
        let _ = self.process.wait();
    }

    /// The process's number.
    pub fn number(&self) -> u32 {
        self.process.id()
    }

    /// The last lines that it said, but for the steps, which the metrics tell.
    pub fn said(&self) -> Vec<String> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }
}

fn listen(stderr: std::process::ChildStderr, said: &Mutex<VecDeque<String>>, events: &Events) {
    for line in BufReader::new(stderr).split(b'\n') {
        let Ok(line) = line else { return };
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        if line.starts_with("step ") && line.contains(" tokens/s ") {
            continue;
        }
        events.tell("log", None, serde_json::json!({ "line": line }));
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(line);
        if said.len() > LINES {
            said.pop_front();
        }
    }
}

/// Asks a process to save and stop, as Ctrl-C in its terminal does.
///
/// # Errors
/// Failed: it cannot be reached, or the system has no such signals.
pub fn ask_to_stop(process: u32) -> Result<()> {
    let place = format!("process {process}");
    #[cfg(unix)]
    {
        // Not SIGINT, which a shell has the programs ignore that it starts in the background, and they theirs.
        // SAFETY: sends a signal, and touches no memory. The number is that of a process, not of a group, being above 0.
        let sent = i32::try_from(process).is_ok_and(|number| number > 0 && unsafe { libc::kill(number, libc::SIGTERM) } == 0);
        if sent { Ok(()) } else { Err(Error::failed(place, "cannot be asked to stop", "press Ctrl-C where it runs")) }
    }
    #[cfg(not(unix))]
    Err(Error::failed(place, "cannot be asked to stop from here on this system", "press Ctrl-C where it runs"))
}

/// What went wrong, from what the command line said: the text from `error:` on.
pub fn error_of(said: &[String]) -> Option<[String; 2]> {
    let first = said.iter().rposition(|line| line.starts_with("error: "))?;
    let what = said[first].trim_start_matches("error: ").to_string();
    let rest: Vec<&str> = said[first + 1..].iter().map(|line| line.trim()).collect();
    Some([what, rest.join("\n")])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_is_what_the_command_line_said() {
        let said: Vec<String> =
            ["loading", "error: data.jsonl:3: this is not JSON", "  give one object a line"].map(str::to_string).to_vec();
        let error = error_of(&said).unwrap();
        assert_eq!(error, ["data.jsonl:3: this is not JSON", "give one object a line"].map(str::to_string));
        assert_eq!(error_of(&said[..1]), None);
    }
}

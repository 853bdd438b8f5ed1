//! Ctrl-C: the first asks the run to save and stop, the second ends the process at once.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::terminal::say;
use crate::{Error, Result};

/// A wish to stop, shared between the signal handler and the training loop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to Ctrl-C (and, on Unix, to SIGTERM and SIGHUP) from now on. A process has one listener: further calls give the same.
    ///
    /// A signal that whoever started the process has turned off stays so: `nohup` does that with SIGHUP, and a shell with the Ctrl-C of
    /// what a script runs in the background.
    ///
    /// # Errors
    /// Failed, when the system refuses the handler.
    pub fn install() -> Result<Self> {
        Self::install_telling("\ninterrupted: saving a checkpoint (press Ctrl-C again to quit without)")
    }

    /// [`Interrupt::install`] for one of several ranks: it says nothing, since all are asked at a time, and one tells what comes of it.
    ///
    /// # Errors
    /// As [`Interrupt::install`].
    pub fn install_silently() -> Result<Self> {
        Self::install_telling("")
    }

    fn install_telling(text: &'static str) -> Result<Self> {
        static INSTALLED: OnceLock<Interrupt> = OnceLock::new();
        if let Some(interrupt) = INSTALLED.get() {
            return Ok(interrupt.clone());
        }
        let interrupt = INSTALLED.get_or_init(Self::default).clone();
        let wish = interrupt.clone();
        listen(move || {
            if wish.0.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
            if !text.is_empty() {
                say(text);
            }
        })?;
        Ok(interrupt)
    }

    /// Whether someone has asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// [`Interrupt::requested`], for what asks between its parts whether to go on.
    pub fn flow(&self) -> ControlFlow<()> {
        if self.requested() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Asks to stop, as Ctrl-C does.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Calls `asked` whenever someone asks the process to stop, by the signals of [`Interrupt::install`]; for commands that do something else
/// then than save a checkpoint.
///
/// # Errors
/// Failed, when the system refuses the handler.
pub fn listen(asked: impl FnMut() + Send + 'static) -> Result<()> {
    on_signals(asked)
        .map_err(|error| Error::failed("Ctrl-C", format!("cannot listen to it: {error}"), "run in an ordinary terminal"))
}

/// Calls `asked` at every signal that asks to stop, on a thread of its own.
#[cfg(unix)]
fn on_signals(mut asked: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let wanted: Vec<i32> = [SIGINT, SIGTERM, SIGHUP].into_iter().filter(|&signal| !is_ignored(signal)).collect();
    let mut signals = signal_hook::iterator::Signals::new(wanted)?;
    let listen = move || signals.forever().for_each(|_| asked());
    std::thread::Builder::new().name("signals".to_string()).spawn(listen).map(drop)
}

/// Whether the process was started with this signal turned off.
#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: a `sigaction` of zeros is a valid value, and without a new action the call only writes the present one into it.
    unsafe {
        let mut present: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &mut present) == 0 && present.sa_sigaction == libc::SIG_IGN
    }
}

/// Calls `asked` at every Ctrl-C, on a thread of its own.
#[cfg(not(unix))]
fn on_signals(asked: impl FnMut() + Send + 'static) -> std::result::Result<(), ctrlc::Error> {
    ctrlc::set_handler(asked)
}

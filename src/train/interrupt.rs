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
        let wish = || say("\ninterrupted: saving a checkpoint (press Ctrl-C again to quit without)");
        Self::install_for(ASKING, wish)
    }

    /// [`Interrupt::install`] for one of several ranks. It listens to SIGUSR1, which `mpirun` hands to all ranks, and to Ctrl-C. SIGTERM
    /// ends the process at once: it is what `mpirun` sends to the ranks when one of them is gone, with which nothing can be saved any
    /// more. Nothing is said, since all are asked at a time; one tells what comes of it.
    ///
    /// # Errors
    /// As [`Interrupt::install`].
    pub fn install_among_ranks() -> Result<Self> {
        Self::install_for(ASKING_RANKS, || ())
    }

    fn install_for(signals: &[i32], tell: impl Fn() + Send + 'static) -> Result<Self> {
        static INSTALLED: OnceLock<Interrupt> = OnceLock::new();
        if let Some(interrupt) = INSTALLED.get() {
            return Ok(interrupt.clone());
        }
        let interrupt = INSTALLED.get_or_init(Self::default).clone();
        let wish = interrupt.clone();
        listen_to(signals, move || {
            if wish.0.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
            tell();
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
    listen_to(ASKING, asked)
}

fn listen_to(signals: &[i32], asked: impl FnMut() + Send + 'static) -> Result<()> {
    on_signals(signals, asked)
        .map_err(|error| Error::failed("Ctrl-C", format!("cannot listen to it: {error}"), "run in an ordinary terminal"))
}

/// What asks a process to stop.
#[cfg(unix)]
const ASKING: &[i32] = &[libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
/// What asks one of several ranks.
#[cfg(unix)]
const ASKING_RANKS: &[i32] = &[libc::SIGINT, libc::SIGUSR1];
/// Ctrl-C is all that there is.
#[cfg(not(unix))]
const ASKING: &[i32] = &[];
#[cfg(not(unix))]
const ASKING_RANKS: &[i32] = &[];

/// Calls `asked` at every one of these signals, on a thread of its own.
#[cfg(unix)]
fn on_signals(signals: &[i32], mut asked: impl FnMut() + Send + 'static) -> std::io::Result<()> {
    let wanted: Vec<i32> = signals.iter().copied().filter(|&signal| !is_ignored(signal)).collect();
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
fn on_signals(_signals: &[i32], asked: impl FnMut() + Send + 'static) -> std::result::Result<(), ctrlc::Error> {
    ctrlc::set_handler(asked)
}

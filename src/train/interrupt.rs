//! Ctrl-C: the first asks the run to save and stop, the second ends the process at once.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::{Error, Result};

/// A wish to stop, shared between the signal handler and the training loop.
#[derive(Debug, Clone, Default)]
pub struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens to Ctrl-C (and, on Unix, to SIGTERM and SIGHUP) from now on. A process has one listener: further calls give the same.
    ///
    /// # Errors
    /// Failed, when the system refuses the handler.
    pub fn install() -> Result<Self> {
        static INSTALLED: OnceLock<Interrupt> = OnceLock::new();
        if let Some(interrupt) = INSTALLED.get() {
            return Ok(interrupt.clone());
        }
        let interrupt = INSTALLED.get_or_init(Self::default).clone();
        let wish = interrupt.clone();
        ctrlc::set_handler(move || {
            if wish.0.swap(true, Ordering::SeqCst) {
                std::process::exit(1);
            }
            eprintln!("\ninterrupted: saving a checkpoint (press Ctrl-C again to quit without)");
        })
        .map_err(|error| Error::failed("Ctrl-C", format!("cannot listen to it: {error}"), "run in an ordinary terminal"))?;
        Ok(interrupt)
    }

    /// Whether someone has asked to stop.
    pub fn requested(&self) -> bool {
        self.0.load(Ordering::SeqCst)
    }

    /// Asks to stop, as Ctrl-C does.
    pub fn request(&self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

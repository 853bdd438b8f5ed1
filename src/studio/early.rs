//! Kernels before a view asks for them: while somebody reads the first page, a thread has the driver compile what the views will run.
//!
//! Texts are taken to be short: longer ones have most of their kernels in common with them. Who asks for a view meanwhile waits for one
//! list of kernels at the most, and then has them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use super::api::backward;
use super::kept::Shown;
use super::look::{has_own_head, rows_for};
use crate::Result;
use crate::caught::caught;
use crate::session::Session;
use crate::session::probe::HEAD_ROWS;

/// The thread. Dropped, it ends with the list of kernels at hand, and gives back its part in the session.
pub(super) struct Early {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Early {
    /// Starts it.
    pub fn start(session: &Session) -> Self {
        let (session, stop) = (session.clone(), Arc::new(AtomicBool::default()));
        let stopped = stop.clone();
        // What does not compile here is told by the view that needs it.
        let work = move || drop(caught(|| compile(&session, &|| stopped.load(Ordering::SeqCst))));
        Self { stop, thread: std::thread::Builder::new().name("early".to_string()).spawn(work).ok() }
    }
}

impl Drop for Early {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Has the driver compile what looks at short texts and the step of a short record run, until it is `stopped`.
///
/// # Errors
/// If a kernel does not compile, or the device is lost.
pub fn compile(session: &Session, stopped: &dyn Fn() -> bool) -> Result<()> {
    let (adapter, rows) = (session.adapter(), rows_for(1));
    let own_head = adapter.filter(|adapter| has_own_head(adapter));
    let looks = [
        (Shown::Stream, adapter, rows),
        (Shown::Stream, None, rows),
        (Shown::Logits, own_head, HEAD_ROWS),
        (Shown::Logits, None, HEAD_ROWS),
        (Shown::Logits, own_head, 1),
        (Shown::Logits, None, 1),
    ];
    for (shown, adapter, rows) in looks {
        if stopped() {
            return Ok(());
        }
        shown.compile(session, adapter, rows)?;
    }
    if stopped() { Ok(()) } else { backward::compile(session, rows) }
}

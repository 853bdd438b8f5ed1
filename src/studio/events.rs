//! What happens, told to the page as server-sent events.
//!
//! A run's events carry the step as their `id`. What a page missed while it was away is read from the run's own metrics, so nothing is
//! kept here and nothing is lost.

use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::broadcast;

/// Events that a page may be behind before it has to ask again.
const BEHIND: usize = 1024;

/// One event.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// `step`, `eval`, `sample`, `check`, `done`, `error`, `progress`, `log` or `run`.
    pub name: &'static str,
    /// The step of the run that it belongs to.
    pub step: Option<u64>,
    pub data: Value,
}

/// Where events are told, and heard by whoever listens at the moment.
#[derive(Clone, Debug)]
pub struct Events(broadcast::Sender<Event>);

impl Events {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND))
    }

    /// Tells all who listen; nobody need.
    pub fn tell(&self, name: &'static str, step: Option<u64>, data: impl Serialize) {
        let data = serde_json::to_value(data).unwrap_or_default();
        let _ = self.0.send(Event { name, step, data });
    }

    /// Tells how far long work is: what, done, of.
    pub fn progress(&self, what: &str, done: u64, total: u64) {
        self.tell("progress", None, json!({ "what": what, "done": done, "total": total }));
    }

    /// All events from now on.
    pub fn listen(&self) -> broadcast::Receiver<Event> {
        self.0.subscribe()
    }
}

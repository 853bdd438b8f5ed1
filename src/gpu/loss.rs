//! Lost devices: how a loss is noticed, and how the same device is opened again.
//!
//! A device is lost when its driver resets it (a submission that took too long, a suspended laptop, an update of the driver), or when
//! it is destroyed. Nothing that was on it can be read any more, and every call on it does nothing.

use super::device::{adapters, lock};
use super::{Device, Facts};
use crate::{Error, Result};
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, Once};
use std::time::Duration;

/// How often, and with what pause between, a device is looked for that was lost. A driver that was reset needs a moment.
const OPENINGS: u32 = 5;
const PAUSE: Duration = Duration::from_secs(1);

/// Which device it was, so that the same one is opened again: on another, the same run would have other numbers.
#[derive(Clone)]
pub struct Identity {
    info: wgpu::AdapterInfo,
    facts: Facts,
    planned: Planned,
}

impl Identity {
    /// Opens the device again. All that the lost one held must have been dropped.
    ///
    /// # Errors
    /// Failed: it is not there any more as it was, or cannot be opened.
    pub fn open(&self) -> Result<Device> {
        let gone = || {
            let problem = "it was lost, and is not there any more as it was";
            let proposal = "continue from the last checkpoint with --resume; `graftling doctor` lists what is there";
            Error::failed(format!("GPU `{}`", self.info.name), problem, proposal)
        };
        let open = || {
            let adapter = adapters().into_iter().find(|adapter| adapter.get_info() == self.info).ok_or_else(gone)?;
            Device::on(&adapter)
        };
        let mut opened = open();
        for _ in 1..OPENINGS {
            if opened.is_ok() {
                break;
            }
            std::thread::sleep(PAUSE);
            opened = open();
        }
        let mut device = opened?;
        device.facts.clone_from(&self.facts);
        device.planned.clone_from(&self.planned);
        Ok(device)
    }
}

/// Losses that are planned, as counts of submissions: the first on this device, the next on the one that is opened in its place.
pub(super) type Planned = Arc<Mutex<VecDeque<u64>>>;

impl Device {
    /// What to open again when this device is lost.
    pub fn identity(&self) -> Identity {
        Identity { info: self.info.clone(), facts: self.facts.clone(), planned: self.planned.clone() }
    }

    /// Destroys this device after so many more submissions, then the one that is opened in its place after so many, and so on.
    /// This is how a test loses a device at a chosen moment, such as the middle of a step.
    pub fn destroy_after(&self, submissions: &[u64]) {
        *lock(&self.planned) = submissions.iter().copied().collect();
    }

    /// Hands commands to the queue. On a lost device this does nothing; [`Device::check`] says so.
    pub(crate) fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let mut planned = lock(&self.planned);
        match planned.front_mut() {
            Some(0) => {
                planned.pop_front();
                self.device.destroy();
            }
            Some(left) => *left -= 1,
            None => {}
        }
        drop(planned);
        self.queue.submit(commands)
    }

    /// Waits for submissions.
    ///
    /// # Errors
    /// If the device is lost, or reported an error since the last check.
    pub(crate) fn wait_for(&self, what: wgpu::PollType) -> Result<()> {
        let waited = caught(|| self.device.poll(what));
        self.check()?;
        match waited {
            Ok(polled) => polled.map(|_| ()).map_err(|error| self.failed(error.to_string())),
            Err(panic) => Err(self.failed(panic)),
        }
    }

    /// `error`, or the loss of the device that it follows from.
    pub(crate) fn or_lost(&self, error: Error) -> Error {
        // wgpu tells of a loss when it is asked how far the work is.
        let _ = caught(|| self.device.poll(wgpu::PollType::wait_indefinitely()));
        match lock(&self.lost).as_ref() {
            Some(reason) => Error::DeviceLost {
                place: format!("GPU `{}`", self.info.name),
                problem: format!("the device was lost ({reason})"),
                proposal: "start again; a training run goes on from its last checkpoint with --resume".to_string(),
            },
            None => error,
        }
    }
}

thread_local! {
    /// Whether a panic of this thread is caught and told of as an error.
    static CATCHING: Cell<bool> = const { Cell::new(false) };
}

/// What `wait` gives, or the message of its panic: `wgpu::Device::poll` panics where a driver answers that the device is lost
/// (wgpu 30), after it has told so to the callback for lost devices and let go of its locks.
fn caught<T>(wait: impl FnOnce() -> T) -> std::result::Result<T, String> {
    static QUIET: Once = Once::new();
    QUIET.call_once(|| {
        let report = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !CATCHING.get() {
                report(panic);
            }
        }));
    });
    CATCHING.set(true);
    let waited = catch_unwind(AssertUnwindSafe(wait));
    CATCHING.set(false);
    waited.map_err(|panic| match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().map_or_else(|| "wgpu panicked".to_string(), |message| (*message).to_string()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_while_waiting_is_an_error() {
        assert_eq!(caught(|| 7), Ok(7));
        let number = 3;
        assert_eq!(caught(|| -> u32 { panic!("Error in Device::poll: {number}") }), Err("Error in Device::poll: 3".to_string()));
        assert_eq!(caught(|| -> u32 { panic!("lost") }), Err("lost".to_string()));
        assert!(!CATCHING.get());
    }
}

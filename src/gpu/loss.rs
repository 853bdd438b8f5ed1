//! Lost devices: how a loss is noticed, and how the same device is opened again.
//!
//! A device is lost when its driver resets it (a submission that took too long, a suspended laptop, an update of the driver), or when
//! it is destroyed. Nothing that was on it can be read any more, and every call on it does nothing.

use super::Device;
use super::device::{adapters, lock};
use crate::caught::caught;
use crate::kernel::Facts;
use crate::{Error, Result};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

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
            Device::on(&adapter, self.facts.arithmetic)
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
        device.loss.planned.clone_from(&self.planned);
        Ok(device)
    }
}

/// How wgpu says so.
pub(super) const OUT_OF_MEMORY: &str = "Out of memory";

/// What a device has reported: errors, and its loss.
pub(super) struct Loss {
    /// The first error that nobody has been told of yet.
    trouble: Arc<Mutex<Option<String>>>,
    /// Why the device was lost, if it was.
    lost: Arc<Mutex<Option<String>>>,
    planned: Planned,
}

impl Loss {
    /// From now on takes note of what `device` reports.
    pub(super) fn watch(device: &wgpu::Device) -> Self {
        let trouble: Arc<Mutex<Option<String>>> = Arc::default();
        let first = trouble.clone();
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| note(&first, error.to_string())));
        let lost: Arc<Mutex<Option<String>>> = Arc::default();
        let (first, why) = (trouble.clone(), lost.clone());
        device.set_device_lost_callback(move |reason, message| match message.as_str() {
            // wgpu gives up a device that has no memory for a submission. The next would not have it either.
            OUT_OF_MEMORY => note(&first, message),
            _ => note(&why, format!("{reason:?} {message}").trim().to_lowercase()),
        });
        Self { trouble, lost, planned: Planned::default() }
    }

    /// The first error since the last call; why the device was lost, from then on.
    pub(super) fn take(&self) -> Option<String> {
        lock(&self.trouble).take().or_else(|| lock(&self.lost).clone())
    }
}

fn note(first: &Mutex<Option<String>>, message: String) {
    lock(first).get_or_insert(message);
}

/// Losses that are planned, as counts of submissions: the first on this device, the next on the one that is opened in its place.
type Planned = Arc<Mutex<VecDeque<u64>>>;

impl Device {
    /// What to open again when this device is lost.
    pub fn identity(&self) -> Identity {
        Identity { info: self.info.clone(), facts: self.facts.clone(), planned: self.loss.planned.clone() }
    }

    /// Destroys this device after so many more submissions, then the one that is opened in its place after so many, and so on.
    /// This is how a test loses a device at a chosen moment, such as the middle of a step.
    pub fn destroy_after(&self, submissions: &[u64]) {
        *lock(&self.loss.planned) = submissions.iter().copied().collect();
    }

    /// Hands commands to the queue. On a lost device this does nothing; [`Device::check`] says so.
    pub(crate) fn submit(&self, commands: impl IntoIterator<Item = wgpu::CommandBuffer>) -> wgpu::SubmissionIndex {
        let mut planned = lock(&self.loss.planned);
        match planned.front_mut() {
            Some(0) => {
                planned.pop_front();
                self.device.destroy();
            }
            Some(left) => *left -= 1,
            None => {}
        }
        drop(planned);
        let started = Instant::now();
        let submission = self.queue.submit(commands);
        lock(&self.spent).submitting += started.elapsed();
        submission
    }

    /// `error`, or the loss of the device that it follows from.
    pub(crate) fn or_lost(&self, error: Error) -> Error {
        // wgpu tells of a loss when it is asked how far the work is.
        let _ = caught(|| self.device.poll(wgpu::PollType::wait_indefinitely()));
        match lock(&self.loss.lost).as_ref() {
            Some(reason) => Error::DeviceLost {
                place: format!("GPU `{}`", self.info.name),
                problem: format!("the device was lost ({reason})"),
                proposal: "start again; a training run goes on from its last checkpoint with --resume".to_string(),
            },
            None => error,
        }
    }
}

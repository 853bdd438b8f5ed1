//! How much work goes into one submission.
//!
//! Windows and several drivers kill a device whose submission runs for about two seconds, and a desktop stutters long before. So commands
//! go out in slices of a bounded time. How much work that is follows what earlier slices took.

use crate::Result;
use crate::gpu::Device;
use std::time::{Duration, Instant};

/// Time that one submission should take.
const SLICE: Duration = Duration::from_millis(50);

/// Work that a dispatch stands for besides its arithmetic, in floating-point operations: launching it and moving its data.
const DISPATCH_WORK: f64 = 1e6;

/// Splits a run into submissions, two of them in flight at a time.
#[derive(Debug)]
pub struct Pacer {
    /// Work a second, as measured; starts with that of a slow driver.
    rate: f64,
    /// Work in the slice that is being recorded.
    recorded: f64,
    in_flight: Option<(wgpu::SubmissionIndex, f64)>,
    /// `None`: nobody looked when it was, so that the time of the next slice is not known.
    last_done: Option<Instant>,
}

impl Default for Pacer {
    fn default() -> Self {
        Self { rate: 5e9, recorded: 0.0, in_flight: None, last_done: None }
    }
}

impl Pacer {
    /// Notes a recorded dispatch of this many floating-point operations; true if the slice is full and should be submitted.
    pub fn record(&mut self, flops: f64) -> bool {
        self.recorded += flops + DISPATCH_WORK;
        self.recorded >= self.rate * SLICE.as_secs_f64()
    }

    /// Submits a slice, and waits for the one before it.
    ///
    /// # Errors
    /// If the device is lost.
    pub fn submit(&mut self, device: &Device, commands: wgpu::CommandBuffer) -> Result<()> {
        let index = device.submit([commands]);
        let before = self.in_flight.replace((index, std::mem::take(&mut self.recorded)));
        let Some((before, work)) = before else {
            self.last_done = Some(Instant::now());
            return Ok(());
        };
        device.wait_for(Some(before))?;
        let now = Instant::now();
        let Some(last_done) = self.last_done.replace(now).filter(|_| work > 0.0) else { return Ok(()) };
        let took = (now - last_done).max(Duration::from_micros(100));
        // Half of the old rate, half of the new: a slice that was delayed by something else does not shrink the next one for long. At most
        // twice the old rate: a slice that was done before the wait for it began must not make the next one too long.
        self.rate = (0.5 * self.rate + 0.5 * work / took.as_secs_f64()).min(2.0 * self.rate);
        Ok(())
    }

    /// Goes on after something else: what was waited for meanwhile was not this run's work.
    pub fn resume(&mut self) {
        self.last_done = Some(Instant::now());
    }

    /// Goes on after something that may have taken longer than the slice in flight, whose time does not count then: without a wait nobody
    /// knows it.
    pub fn look_away(&mut self) {
        self.last_done = None;
    }

    /// Ends a run: what follows does not count as waiting.
    pub fn finish(&mut self) {
        self.in_flight = None;
    }
}

//! How long one run of a graph takes.

use crate::Result;
use crate::gpu::Device;
use crate::graph::Counts;
use crate::plan::Executable;
use std::time::{Duration, Instant};

/// Measurements, of which the shortest counts: what disturbs a measurement only makes it longer.
const ROUNDS: usize = 5;
/// Runs in one measurement at the most.
const MOST_RUNS: f64 = 1e5;

/// Seconds of one run, measured for about `budget`. Short runs are repeated in one submission, so that the way to the device and
/// back does not count. What takes longer than the budget is measured once.
///
/// # Errors
/// If the device is lost.
pub fn seconds_of_run(device: &Device, executable: &mut Executable, budget: Duration) -> Result<f64> {
    // The first run sends parameters and clears new memory.
    timed(device, executable, 1)?;
    let once = timed(device, executable, 1)?;
    if once >= budget.as_secs_f64() {
        return Ok(once);
    }
    let times = (budget.as_secs_f64() / ROUNDS as f64 / once).clamp(1.0, MOST_RUNS) as usize;
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        best = best.min(timed(device, executable, times)?);
    }
    Ok(best)
}

/// Seconds of one run, on average over `budget`, of which `once` is about one: what a longer work has to expect of the device now.
///
/// # Errors
/// If the device is lost.
pub fn average_seconds_of_run(device: &Device, executable: &mut Executable, once: f64, budget: Duration) -> Result<f64> {
    timed(device, executable, (budget.as_secs_f64() / once).clamp(1.0, MOST_RUNS) as usize)
}

fn timed(device: &Device, executable: &mut Executable, times: usize) -> Result<f64> {
    let started = Instant::now();
    executable.repeat(&Counts::default(), times)?;
    device.wait()?;
    Ok(started.elapsed().as_secs_f64() / times as f64)
}

//! Where a run's time goes: every dispatch timed by the GPU's own clock.
//!
//! Each dispatch gets a pass of its own with a timestamp before and after, so a timed run is slower than a plain one. It computes
//! the same, bit for bit.

use super::Executable;
use super::timings::Timing;
use crate::gpu::Device;
use crate::graph::Counts;
use crate::{Error, Result};

/// Dispatches between two timestamp sets: a set holds at most 4,096 timestamps.
const SET: usize = 2048;
/// Dispatches of a submission, whose time is to be bounded as in a plain run.
const SUBMITTED_TOGETHER: usize = 64;

impl Executable {
    /// [`Executable::run`] with every dispatch timed.
    ///
    /// # Errors
    /// If the device has no timestamps, or is lost.
    pub fn run_timed(&mut self, counts: &Counts) -> Result<Vec<Timing>> {
        let device = self.device.clone();
        if !device.has_timestamps() {
            let proposal = "use another adapter or driver; `graftling doctor` says which of them have timestamps";
            return Err(Error::bad_input(&device.info.name, "it has no timestamp queries, so it cannot be profiled", proposal));
        }
        self.prepare(counts)?;
        let seconds_a_tick = f64::from(device.queue.get_timestamp_period()) * 1e-9;
        let mut timings = Vec::new();
        for steps in self.steps.chunks(SET) {
            let ticks = time(&device, steps)?;
            for (step, ticks) in steps.iter().zip(ticks.chunks_exact(2)).filter(|(step, _)| !step.workgroups.contains(&0)) {
                let node = &self.graph.nodes()[step.node];
                timings.push(Timing {
                    kernel: step.kernel,
                    op: node.op.name(),
                    node: node.name.clone(),
                    start_seconds: ticks[0] as f64 * seconds_a_tick,
                    seconds: ticks[1].saturating_sub(ticks[0]) as f64 * seconds_a_tick,
                    flops: step.work.flops,
                    bytes: step.work.bytes,
                });
            }
        }
        Ok(timings)
    }
}

/// Timestamps before and after each step.
fn time(device: &Device, steps: &[super::executable::Step]) -> Result<Vec<u64>> {
    let count = 2 * steps.len() as u32;
    let queries = device.query_set(count);
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved = device.allocate_for("timestamps", count as usize * 8, usage)?;
    for (group, steps) in steps.chunks(SUBMITTED_TOGETHER).enumerate() {
        let mut encoder = device.device.create_command_encoder(&Default::default());
        for (index, step) in steps.iter().enumerate() {
            let query = 2 * (group * SUBMITTED_TOGETHER + index) as u32;
            let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: Some(wgpu::ComputePassTimestampWrites {
                    query_set: &queries,
                    beginning_of_pass_write_index: Some(query),
                    end_of_pass_write_index: Some(query + 1),
                }),
            });
            step.encode(&mut pass);
        }
        device.submit([encoder.finish()]);
        device.wait()?;
    }
    let mut encoder = device.device.create_command_encoder(&Default::default());
    encoder.resolve_query_set(&queries, 0..count, &resolved.buffer, 0);
    device.submit([encoder.finish()]);
    device.read(&resolved, count as usize)
}

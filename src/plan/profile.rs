//! Where a run's time goes: every dispatch timed by the GPU's own clock.
//!
//! Each dispatch gets a pass of its own with a timestamp before and after, so a profiled run is somewhat slower than a plain one.

use super::Executable;
use crate::gpu::Device;
use crate::graph::Counts;
use crate::{Error, Result};

/// One dispatch of a profiled run.
#[derive(Clone, Debug)]
pub struct Timing {
    pub kernel: &'static str,
    /// Name of the node that it belongs to.
    pub node: String,
    /// From the first dispatch's start.
    pub start_seconds: f64,
    pub seconds: f64,
    /// Floating-point operations.
    pub flops: f64,
}

/// Dispatches between two timestamp sets: a set holds at most 4,096 timestamps.
const SET: usize = 2048;

impl Executable {
    /// Runs the graph once and times every dispatch.
    ///
    /// # Errors
    /// If the device has no timestamps, or is lost.
    pub fn profile(&mut self, counts: &Counts) -> Result<Vec<Timing>> {
        self.run(counts)?;
        let device = self.device.clone();
        if !device.device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            let proposal = "use another adapter or driver; `graftling doctor` says which of them have timestamps";
            return Err(Error::bad_input(&device.info.name, "it has no timestamp queries, so it cannot be profiled", proposal));
        }
        let nanoseconds = f64::from(device.queue.get_timestamp_period());
        let mut timings = Vec::new();
        let mut first_tick = None;
        for steps in self.steps.chunks(SET) {
            let ticks = time(&device, steps)?;
            for (step, ticks) in steps.iter().zip(ticks.chunks_exact(2)).filter(|(step, _)| !step.workgroups.contains(&0)) {
                let first = *first_tick.get_or_insert(ticks[0]);
                timings.push(Timing {
                    kernel: step.kernel,
                    node: self.graph.nodes()[step.node].name.clone(),
                    start_seconds: ticks[0].saturating_sub(first) as f64 * nanoseconds * 1e-9,
                    seconds: ticks[1].saturating_sub(ticks[0]) as f64 * nanoseconds * 1e-9,
                    flops: step.flops,
                });
            }
        }
        Ok(timings)
    }
}

/// Timestamps before and after each step.
fn time(device: &Device, steps: &[super::executable::Step]) -> Result<Vec<u64>> {
    let count = 2 * steps.len() as u32;
    let queries =
        device.device.create_query_set(&wgpu::QuerySetDescriptor { label: None, ty: wgpu::QueryType::Timestamp, count });
    let usage = wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC;
    let resolved = device.allocate_for("timestamps", count as usize * 8, usage)?;
    // A submission of bounded time, as in a plain run.
    for (group, steps) in steps.chunks(64).enumerate() {
        let mut encoder = device.device.create_command_encoder(&Default::default());
        for (index, step) in steps.iter().enumerate() {
            let query = 2 * (group * 64 + index) as u32;
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

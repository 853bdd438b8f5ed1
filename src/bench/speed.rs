//! What the device can do at most: arithmetic in registers, and copies in memory.

use super::cases::Fill;
use super::timer::seconds_of_run;
use crate::gpu::Device;
use crate::graph::{Graph, Op, Origin, Rows, TensorType};
use crate::ops::copy::Copy;
use crate::ops::multiply_add::MultiplyAdd;
use crate::plan::Executable;
use crate::plan::timings::Roofline;
use crate::{Error, Result};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What was measured, and how.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Speed {
    #[serde(flatten)]
    pub roofline: Roofline,
    /// Independent chains of multiply-adds with which the peak was reached.
    pub chains: u32,
    /// Operations a second with 1, 2, 4 and 8 chains.
    pub flops_per_second_by_chains: [f64; 4],
    /// Bytes of each of the two buffers of the copy.
    pub copied_bytes: usize,
}

/// Elements in flight: enough invocations for any GPU, whatever the number of chains.
const ELEMENTS: usize = 1 << 20;
/// Steps at the least, so that reading and writing the elements does not count.
const LEAST_STEPS: u32 = 1024;
/// Time that a dispatch of the peak kernel should take: long against starting it, short against a driver's patience.
const DISPATCH: Duration = Duration::from_millis(20);
const MOST_STEPS: u32 = 1 << 20;
/// Larger than the caches of today's GPUs.
const COPIED: usize = 256 << 20;
/// The least that a copy is worth measuring with.
const LEAST_COPIED: usize = 16 << 20;

impl Speed {
    /// Measures, for about `budget` each number of chains and the copy.
    ///
    /// # Errors
    /// If the device is lost, or has not the memory for the smallest copy.
    pub fn measure(device: &Arc<Device>, budget: Duration) -> Result<Self> {
        let mut by_chains = [0.0; 4];
        for (rate, chains) in by_chains.iter_mut().zip(MultiplyAdd::CHAINS) {
            *rate = rate_with(device, chains, budget)?;
        }
        let best = (0..by_chains.len()).max_by(|&a, &b| by_chains[a].total_cmp(&by_chains[b])).unwrap_or(0);
        let (flops_per_second, chains) = (by_chains[best], MultiplyAdd::CHAINS[best]);
        let (bytes_per_second, copied_bytes) = bandwidth(device, budget)?;
        let roofline = Roofline { flops_per_second, bytes_per_second };
        Ok(Self { roofline, chains, flops_per_second_by_chains: by_chains, copied_bytes })
    }
}

/// Operations a second with this number of chains; the number of steps is what the device needs for a dispatch of some length.
fn rate_with(device: &Arc<Device>, chains: u32, budget: Duration) -> Result<f64> {
    let tensor = TensorType::f32(Rows::Fixed(1), ELEMENTS);
    let mut op = MultiplyAdd { steps: LEAST_STEPS, chains, factor: 0.999, addend: 0.001 };
    loop {
        let seconds = seconds_of(device, op, tensor, Duration::ZERO)?;
        if seconds >= DISPATCH.as_secs_f64() || op.steps >= MOST_STEPS {
            return Ok(op.flops(&[[1, ELEMENTS]], &[]) as f64 / seconds_of(device, op, tensor, budget)?);
        }
        // Towards twice the wished time, at the most 16 times as far in one go.
        op.steps *= (2.0 * DISPATCH.as_secs_f64() / seconds).clamp(2.0, 16.0) as u32;
    }
}

/// Bytes read and written a second, and the size of each buffer.
fn bandwidth(device: &Arc<Device>, budget: Duration) -> Result<(f64, usize)> {
    let mut bytes = COPIED.min(device.max_binding());
    loop {
        let columns = 1024;
        let tensor = TensorType::f32(Rows::Fixed(bytes / 4 / columns), columns);
        match seconds_of(device, Copy, tensor, budget) {
            Ok(seconds) => return Ok((2.0 * tensor.max_bytes() as f64 / seconds, tensor.max_bytes())),
            Err(Error::Failed { .. }) if bytes / 2 >= LEAST_COPIED => bytes /= 2,
            Err(error) => return Err(error),
        }
    }
}

/// Seconds of one run of an op with one input.
fn seconds_of(device: &Arc<Device>, op: impl Op + 'static, tensor: TensorType, budget: Duration) -> Result<f64> {
    let mut graph = Graph::new();
    let x = graph.leaf("x", tensor, Origin::Weight);
    let y = graph.apply_one(op, &[x], "y")?;
    let slice = device.allocate("x", tensor.max_bytes())?;
    Fill::Signed.write(device, &slice, tensor)?;
    let mut executable = Executable::new(device.clone(), graph, &[y], HashMap::from([(x, slice.into())]))?;
    seconds_of_run(device, &mut executable, budget)
}

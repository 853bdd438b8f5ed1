//! Machine code before it is needed, where a driver makes it late.
//!
//! Mesa's driver for CPUs compiles a kernel when it is dispatched for the first time, on the one thread of its queue: for the kernels of a
//! model that is seconds, one kernel after the other, while all other cores wait. So new kernels are dispatched here at once, each without a
//! workgroup. If that is slow, they were not in the driver's cache on disk, and further devices, each with a queue of its own, compile what is
//! left at the same time; where they are run, the driver finds them in its cache.
//!
//! The parameters have to be those of a run: the driver also compiles a kernel with the numbers in it that decide about its loops, and where
//! the kernel gets much shorter by that, as it does with zeros, takes it for this case, and compiles the whole of it when others come.

use super::device::{Device, adapters, lock};
use crate::Result;
use crate::kernel::Kernel;
use crate::kernel::reflect::BindingKind;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a kernel from the driver's cache does not take.
const SLOW: Duration = Duration::from_millis(60);

/// A kernel that will be run.
#[derive(Clone, Debug)]
pub struct Wanted {
    pub kernel: &'static Kernel,
    /// Values of its `override` constants, on top of those of [`Kernel::constants`].
    pub constants: Vec<(&'static str, f64)>,
    /// Parameters of one of its runs.
    pub params: Vec<u8>,
}

/// Has the driver compile these kernels, which `device` has not run yet, on all cores.
///
/// # Errors
/// If a kernel cannot be compiled, or the device is lost.
pub(super) fn run_first(device: &Device, kernels: &[&Wanted]) -> Result<()> {
    if !device.facts.cpu_driver {
        return Ok(());
    }
    let mut left = kernels.iter();
    for kernel in left.by_ref() {
        let begun = Instant::now();
        without_workgroup(device, kernel)?;
        if begun.elapsed() > SLOW {
            break;
        }
    }
    let others = std::thread::available_parallelism().map_or(1, usize::from).min(left.len()).saturating_sub(1);
    let next = Mutex::new(left);
    let run = |device: &Device| -> Result<()> {
        loop {
            let kernel = lock(&next).next();
            let Some(kernel) = kernel else { return Ok(()) };
            without_workgroup(device, kernel)?;
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..others {
            // What fails here is compiled where it is run.
            scope.spawn(|| beside(device).map(|other| run(&other)));
        }
        run(device)
    })
}

/// The same adapter, opened once more.
fn beside(device: &Device) -> Option<Device> {
    let is_same = |info: wgpu::AdapterInfo| {
        (info.backend, info.device, &info.name) == (device.info.backend, device.info.device, &device.info.name)
    };
    let adapter = adapters().into_iter().find(|adapter| is_same(adapter.get_info()))?;
    Device::on(&adapter, device.facts.arithmetic).ok()
}

/// Dispatches nothing of a kernel: the driver has to have it compiled nevertheless.
fn without_workgroup(device: &Device, wanted: &Wanted) -> Result<()> {
    let pipeline = device.pipeline(wanted.kernel, &wanted.constants)?;
    let buffer = |usage| {
        let size = wanted.params.len().next_multiple_of(256) as u64;
        device.device.create_buffer(&wgpu::BufferDescriptor { label: None, size, usage, mapped_at_creation: false })
    };
    let [params, read, written] =
        [wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST, wgpu::BufferUsages::STORAGE, wgpu::BufferUsages::STORAGE]
            .map(buffer);
    device.queue.write_buffer(&params, 0, &wanted.params);
    let of_kind = |kind: &BindingKind| match kind {
        BindingKind::Uniform(_) => &params,
        BindingKind::StorageRead => &read,
        BindingKind::StorageReadWrite => &written,
    };
    let entries: Vec<wgpu::BindGroupEntry> = (0..)
        .zip(&pipeline.bindings)
        .map(|(binding, kind)| wgpu::BindGroupEntry { binding, resource: of_kind(kind).as_entire_binding() })
        .collect();
    let group =
        device.device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &pipeline.layout, entries: &entries });
    let mut encoder = device.device.create_command_encoder(&Default::default());
    {
        let mut pass = encoder.begin_compute_pass(&Default::default());
        pass.set_pipeline(&pipeline.pipeline);
        pass.set_bind_group(0, &group, &[]);
        pass.dispatch_workgroups(0, 0, 0);
    }
    // Past `Device::submit`, which counts what a run submits: how many of these there are depends on the driver's cache.
    device.queue.submit([encoder.finish()]);
    device.wait()
}

//! What a training step costs the host: `cargo bench --bench host`.
//!
//! The device is wgpu's no-op backend, which accepts all work and does none, so all the time is the host's: our code and wgpu's
//! validation, without a driver. The model has the sizes of SmolLM2-135M with rank 8 on all linear layers; its weights are zeros.
//!
//! Allocations are counted by an allocator around the system's. Those of wgpu are among them; the last line shows what it makes for as
//! many dispatches without any code of ours. `cargo bench --bench host -- 2000` does more rounds, for a profiler.

use graftling::Result;
use graftling::adapter::{DeviceAdapter, UniformLora};
use graftling::architecture::Architecture;
use graftling::architecture::known;
use graftling::architecture::parameters;
use graftling::bench::step;
use graftling::data::Batch;
use graftling::gpu::Device;
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::storage::DType;
use graftling::storage::{TensorInfo, TensorSource};
use graftling::train::memory::StepShape;
use graftling::train::step::Recompute;
use graftling::train::trainer::Trainer;
use std::alloc::{GlobalAlloc, Layout, System};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// The system's allocator, and how often it was asked.
struct Counting;

static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on unchanged to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A model file in bf16 whose weights are all zero.
struct Zeros(Vec<TensorInfo>);

impl Zeros {
    fn new(config: &Architecture) -> Self {
        let storage = DType::BF16;
        let mut tensors: Vec<_> = parameters(config)
            .into_iter()
            .map(|parameter| TensorInfo { bytes: 2 * parameter.count(), name: parameter.name, shape: parameter.shape, storage })
            .collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self(tensors)
    }
}

impl TensorSource for Zeros {
    fn tensors(&self) -> &[TensorInfo] {
        &self.0
    }

    fn unreadable(&self) -> &[(String, String)] {
        &[]
    }

    fn place(&self, name: &str) -> String {
        name.to_owned()
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> Result<Vec<u8>> {
        Ok(vec![0; 2 * rows.len() * self.find(name).map_or(0, TensorInfo::row_values)])
    }
}

/// Median time and allocations of a step.
fn measure(rounds: usize, mut step: impl FnMut(usize) -> Result<()>) -> Result<(Duration, usize)> {
    let mut measured = Vec::new();
    for round in 0..rounds {
        let (allocations, started) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        step(round)?;
        measured.push((started.elapsed(), ALLOCATIONS.load(Ordering::Relaxed) - allocations));
    }
    measured.sort();
    Ok(measured[rounds / 2])
}

fn main() -> Result<()> {
    let rounds = std::env::args().find_map(|argument| argument.parse().ok()).unwrap_or(15);
    let (name, config) = known::configs()?.remove(0);
    let layers = config.num_hidden_layers;
    println!("host time and allocations of a step, median of {rounds}; {name}, 4 x 32 tokens, no-op device\n");
    println!("{:<42} {:>10} {:>9} {:>10} {:>12}", "", "dispatches", "ms", "us each", "allocations");
    for adapted in [layers / 2, layers] {
        let device = Arc::new(Device::noop()?);
        let weights = Arc::new(DeviceWeights::upload(
            device.clone(),
            &config,
            &Zeros::new(&config),
            WeightType::In(DType::BF16),
            |_, _| {},
        )?);
        let spec = UniformLora { layers: (layers - adapted..layers).collect(), ..step::lora(8, &config) };
        let adapter = DeviceAdapter::fresh(device.clone(), spec.on(&config), 0)?;
        let batches: Vec<Batch> = (0..2).map(|fewer| step::random_batch(4, 32 - fewer, config.vocab_size)).collect();
        let (max_tokens, recompute) = (batches[0].rows(), Recompute::None);
        let shape = StepShape { max_tokens, accumulate: false, recompute, held_out_tokens: 0 };
        let mut trainer = Trainer::new(weights, &config, adapter, shape, 0, None)?;
        let mut train = |batch: &Batch, number: usize| -> Result<()> {
            trainer.begin(batch, 1.0 / batch.targets.len() as f64)?;
            let loss = trainer.complete(true)?;
            let norm = trainer.update(&step::hyper(number as u64 + 1))?;
            loss.wait()?;
            norm.wait()?;
            Ok(())
        };
        train(&batches[0], 0)?;
        train(&batches[1], 1)?;
        train(&batches[0], 2)?;
        let before = device.created();
        let same = measure(rounds, |round| train(&batches[0], round))?;
        let other = measure(rounds, |round| train(&batches[(round + 1) % 2], round))?;
        assert_eq!(device.created(), before, "a step after the first made something");
        let dispatches = trainer.dispatches();
        for (name, (time, allocations)) in [("rows as in the step before", same), ("other rows than the step before", other)] {
            let label = format!("{adapted} layers, {name}");
            let seconds = time.as_secs_f64();
            println!(
                "{label:<46} {dispatches:>6} {:>9.2} {:>10.2} {allocations:>12}",
                seconds * 1e3,
                seconds * 1e6 / dispatches as f64
            );
        }
    }
    wgpu_alone(rounds, 2000)
}

/// What wgpu itself takes for this many dispatches of one kernel, each with a bind group of its own, in one submission.
fn wgpu_alone(rounds: usize, dispatches: usize) -> Result<()> {
    let mut descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
    descriptor.backends = wgpu::Backends::NOOP;
    descriptor.backend_options.noop = wgpu::NoopBackendOptions::enabled();
    let instance = wgpu::Instance::new(descriptor);
    let adapter = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::NOOP)).remove(0);
    let (device, queue) = pollster::block_on(adapter.request_device(&Default::default())).expect("the no-op device opens");
    let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
        label: None,
        source: wgpu::ShaderSource::Wgsl(
            "@group(0) @binding(0) var<storage, read> x: array<f32>;
             @group(0) @binding(1) var<storage, read_write> y: array<f32>;
             @compute @workgroup_size(64) fn main() { y[0] = x[0]; }"
                .into(),
        ),
    });
    let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
        label: None,
        layout: None,
        module: &module,
        entry_point: Some("main"),
        compilation_options: Default::default(),
        cache: None,
    });
    let (usage, mapped_at_creation) = (wgpu::BufferUsages::STORAGE, false);
    let buffer = || device.create_buffer(&wgpu::BufferDescriptor { label: None, size: 256, usage, mapped_at_creation });
    let buffers: Vec<wgpu::Buffer> = (0..=dispatches).map(|_| buffer()).collect();
    let groups: Vec<wgpu::BindGroup> = buffers
        .windows(2)
        .map(|pair| {
            let entry = |binding| wgpu::BindGroupEntry { binding, resource: pair[binding as usize].as_entire_binding() };
            let layout = &pipeline.get_bind_group_layout(0);
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout, entries: &[entry(0), entry(1)] })
        })
        .collect();
    let (time, allocations) = measure(rounds, |_| {
        let mut encoder = device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for group in &groups {
                pass.set_pipeline(&pipeline);
                pass.set_bind_group(0, group, &[]);
                pass.dispatch_workgroups(1, 1, 1);
            }
        }
        queue.submit([encoder.finish()]);
        Ok(())
    })?;
    let seconds = time.as_secs_f64();
    let each = seconds * 1e6 / dispatches as f64;
    println!("{:<46} {dispatches:>6} {:>9.2} {each:>10.2} {allocations:>12}", "wgpu alone", seconds * 1e3);
    Ok(())
}

//! What a training step costs the host: `cargo bench --bench host`.
//!
//! The device is wgpu's no-op backend, which accepts all work and does none, so all the time is the host's: our code and wgpu's
//! validation, without a driver. The model has the sizes of SmolLM2-135M with rank 8 on all linear layers; its weights are zeros.
//!
//! Allocations are counted by an allocator around the system's. Those of wgpu are among them: it makes a few for every submission.

use graftling::Result;
use graftling::adapter::{DeviceAdapter, LoraSpec};
use graftling::bench::step;
use graftling::data::Batch;
use graftling::formats::{Storage, TensorInfo, TensorSource};
use graftling::gpu::Device;
use graftling::model::anatomy::parameters;
use graftling::model::config::ModelConfig;
use graftling::model::known;
use graftling::model::weights::{DeviceWeights, WeightType};
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
    fn new(config: &ModelConfig) -> Self {
        let storage = Storage::BF16;
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

    fn read_rows_f32(&self, _: &str, _: Range<usize>, out: &mut [f32]) -> Result<()> {
        out.fill(0.0);
        Ok(())
    }
}

const ROUNDS: usize = 15;

/// Median time, allocations and times of a step, over [`ROUNDS`] of them.
fn measure(mut step: impl FnMut(usize) -> Result<()>) -> Result<(Duration, usize)> {
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let (allocations, started) = (ALLOCATIONS.load(Ordering::Relaxed), Instant::now());
        step(round)?;
        rounds.push((started.elapsed(), ALLOCATIONS.load(Ordering::Relaxed) - allocations));
    }
    rounds.sort();
    Ok(rounds[ROUNDS / 2])
}

fn main() -> Result<()> {
    let (name, config) = known::configs()?.remove(0);
    let layers = config.num_hidden_layers;
    println!("host time and allocations of a step, median of {ROUNDS}; {name}, 4 x 32 tokens, no-op device\n");
    println!("{:<42} {:>10} {:>9} {:>10} {:>12}", "", "dispatches", "ms", "us each", "allocations");
    for adapted in [layers / 2, layers] {
        let device = Arc::new(Device::noop()?);
        let weights = Arc::new(DeviceWeights::upload(device.clone(), &config, &Zeros::new(&config), WeightType::Bf16, |_, _| {})?);
        let spec = LoraSpec { layers: (layers - adapted..layers).collect(), ..step::lora(8, &config) };
        let adapter = DeviceAdapter::fresh(device.clone(), spec, &config, 0)?;
        let batches: Vec<Batch> = (0..2).map(|fewer| step::random_batch(4, 32 - fewer, config.vocab_size)).collect();
        let mut trainer = Trainer::new(weights, &config, adapter, batches[0].rows(), false, 0)?;
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
        let same = measure(|round| train(&batches[0], round))?;
        let other = measure(|round| train(&batches[(round + 1) % 2], round))?;
        assert_eq!(device.created(), before, "a step after the first made something");
        let dispatches = trainer.dispatches();
        for (name, (time, allocations)) in [("rows as in the step before", same), ("other rows than the step before", other)] {
            let label = format!("{adapted} layers, {name}");
            let seconds = time.as_secs_f64();
            println!("{label:<46} {dispatches:>6} {:>9.2} {:>10.2} {allocations:>12}", seconds * 1e3, seconds * 1e6 / dispatches as f64);
        }
    }
    Ok(())
}

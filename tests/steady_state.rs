//! After the first step a run replays what it has: no buffer, bind group or pipeline is made, and reads share staging buffers.

mod common;

use common::{device, device_with};
use graftling::adapter::{DeviceAdapter, UniformLora};
use graftling::bench::step::{hyper, lora, random_batch};
use graftling::data::Batch;
use graftling::formats::ModelFiles;
use graftling::generate::Generator;
use graftling::gpu::{Device, Readback};
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::session::evaluate::Evaluator;
use graftling::train::memory::StepShape;
use graftling::train::step::Recompute;
use graftling::train::trainer::Trainer;
use std::path::Path;
use std::sync::Arc;

struct Setup {
    files: ModelFiles,
    weights: Arc<DeviceWeights>,
}

impl Setup {
    fn on(device: Arc<Device>) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/reference/tiny/grouped_tied");
        let files = ModelFiles::open(folder.to_str().unwrap()).unwrap();
        let weights = DeviceWeights::upload(device, &files.config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap();
        Self { files, weights: Arc::new(weights) }
    }

    /// With dropout and two batches a step, so that everything that a step can have is in it.
    fn trainer(&self) -> Trainer {
        let spec = UniformLora { dropout: 0.1, ..lora(4, &self.files.config) };
        let adapter = DeviceAdapter::fresh(self.weights.device().clone(), spec.on(&self.files.config), 0).unwrap();
        let shape = StepShape { max_tokens: 48, accumulate: true, recompute: Recompute::Layers(1), held_out_tokens: 0 };
        Trainer::new(self.weights.clone(), &self.files.config, adapter, shape, 0, None).unwrap()
    }

    fn batches(&self) -> [Batch; 2] {
        [(3, 16), (2, 11)].map(|(sequences, tokens)| random_batch(sequences, tokens, self.files.config.vocab_size))
    }
}

/// One optimizer step, the next one begun before the last one's numbers are read.
fn train(trainer: &mut Trainer, batches: &[Batch], step: u64) -> Vec<f64> {
    let mut parts = Vec::new();
    for (index, batch) in batches.iter().enumerate() {
        trainer.begin(batch, 0.05).unwrap();
        parts.push(trainer.complete(index == 0).unwrap());
    }
    parts.push(trainer.update(&hyper(step)).unwrap());
    parts.into_iter().map(|part| part.wait_for_one().unwrap()).collect()
}

/// On a real driver and on the device that does nothing, which looks like a GPU.
#[test]
fn a_step_after_the_first_makes_nothing() {
    // A device of its own: other tests make things on the shared one.
    let own = device_with(device().facts.clone());
    for device in [own, Arc::new(Device::noop().unwrap())] {
        let setup = Setup::on(device.clone());
        let (mut trainer, batches) = (setup.trainer(), setup.batches());
        train(&mut trainer, &batches, 1);
        let before = device.created();
        assert!(before.buffers > 0 && before.bind_groups > 0 && before.pipelines > 0, "{before:?}");
        for step in 2..6 {
            train(&mut trainer, &batches, step);
        }
        assert_eq!(device.created(), before, "{}", device.info.name);
    }
}

#[test]
fn evaluation_and_generation_make_nothing_after_the_first_time() {
    let device = Arc::new(Device::noop().unwrap());
    let setup = Setup::on(device.clone());
    let mut evaluator = Evaluator::new(setup.weights.clone(), &setup.files.config, None, 48).unwrap();
    let mut generator = Generator::new(&setup.weights, &setup.files.config, None, 24).unwrap();
    let mut once = || {
        for batch in setup.batches() {
            evaluator.token_nll(&batch).unwrap();
        }
        generator.reset();
        generator.read(&[3, 4, 5]).unwrap();
        for id in 6..12 {
            generator.read(&[id]).unwrap();
        }
    };
    once();
    let before = device.created();
    (0..3).for_each(|_| once());
    assert_eq!(device.created(), before);
}

/// A profile runs the same dispatches, each timed: the numbers are the same, bit for bit, in the profiled step and after it.
#[test]
fn a_profiled_step_computes_the_same() {
    if !device().has_timestamps() {
        return common::not_run::not_run("this device has no timestamps");
    }
    let setup = Setup::on(device());
    let (mut plain, mut profiled, batches) = (setup.trainer(), setup.trainer(), setup.batches());
    // Rows that are left after whole tiles are a dispatch of their own: batches of other lengths have others.
    let alone = |batch: &Batch| {
        let mut trainer = setup.trainer();
        train(&mut trainer, std::slice::from_ref(batch), 1);
        trainer.dispatches()
    };
    for step in 1..5 {
        if step == 2 {
            profiled.start_profile();
        }
        assert_eq!(train(&mut plain, &batches, step), train(&mut profiled, &batches, step), "step {step}");
        if step == 2 {
            let timings = profiled.take_profile();
            let once = optimizer(&timings);
            assert_eq!(timings.len(), batches.iter().map(|batch| alone(batch) - once).sum::<usize>() + once);
            assert!(timings.iter().any(|timing| timing.op == "matmul" && timing.flops > 0.0 && timing.bytes > 0.0));
            assert!(timings.iter().all(|timing| timing.seconds.is_finite() && timing.seconds >= 0.0));
        }
    }
    assert_eq!(plain.adapter().contents().unwrap(), profiled.adapter().contents().unwrap());

    /// Dispatches that a step does once, however many batches it has.
    fn optimizer(timings: &[graftling::plan::Timing]) -> usize {
        timings.iter().filter(|timing| ["global_norm", "adamw"].contains(&timing.op)).count()
    }
}

/// Reads that are under way at the same time give each its own values, those of the moment when they were started.
#[test]
fn reads_are_ordered_with_what_is_submitted_around_them() {
    let device = device();
    let slice = device.allocate("values", 4096).unwrap();
    let reads: Vec<Readback> = (0..20u32)
        .map(|round| {
            let values: Vec<f32> = (0..50).map(|at| (100 * round + at) as f32).collect();
            device.write(&slice, bytemuck::cast_slice(&values));
            Readback::start(&device, &slice, 50).unwrap()
        })
        .collect();
    for (round, read) in reads.into_iter().enumerate().rev() {
        let expected: Vec<f32> = (0..50).map(|at| (100 * round + at) as f32).collect();
        assert_eq!(read.wait().unwrap(), expected, "read {round}");
    }
}

//! Every family in the modes of a run that change no number: steps that compute activations again, keep the hidden states of frozen
//! layers, are profiled, or go on after a stop, are bitwise those of a plain run. And in weights of 8 bits, and under long windows.

use super::families::adapter_of;
use super::*;
use graftling::architecture::Architecture;
use graftling::session::prefix_cache::{PrefixCache, PrefixCacheType, Store, StorePlan};

/// The fixtures of `tests/parity/families.rs`, each family and each of its features once or more.
const FAMILIES: [&str; 23] = [
    "gemma2",
    "gemma3",
    "gemma3_with_images",
    "gpt_oss",
    "gpt_oss_plain",
    "granite",
    "granite_biases",
    "llama_biases",
    "llama_dynamic",
    "llama_linear",
    "llama_yarn",
    "mistral",
    "mixtral",
    "olmo2",
    "phi3_longrope",
    "phi3_window",
    "qwen2",
    "qwen2_moe",
    "qwen2_windows",
    "qwen3",
    "qwen3_moe",
    "qwen3_moe_mixed",
    "smollm3",
];

const STEPS: usize = 4;

/// A family's model with its adapter's start, and batches of two packed examples each.
struct Family {
    name: &'static str,
    setup: Setup,
    spec: UniformLora,
    start: Vec<AdapterTensor>,
    examples: Vec<Example>,
}

#[derive(Clone, Copy)]
struct Mode {
    recompute: Recompute,
    prefix: bool,
    /// After so many steps everything is read from the device and put on a new trainer.
    stop_after: Option<usize>,
    profile: bool,
}

const PLAIN: Mode = Mode { recompute: Recompute::None, prefix: false, stop_after: None, profile: false };

/// What a run leaves: the bits of each step's loss and norm, and those of the adapter.
#[derive(PartialEq, Debug)]
struct Outcome {
    steps: Vec<[u64; 2]>,
    adapter: Vec<u32>,
}

impl Family {
    /// `upper`: adapters on the upper half of the layers alone, so that there is a frozen prefix.
    fn open(name: &'static str, upper: bool, weight_type: WeightType) -> Self {
        let folder = fixtures().join("families").join(name);
        let expected = json(&folder.join("expected.json"));
        let setup = Setup::open_as(device(), &folder, weight_type);
        let layers = setup.files.config.layers.len();
        let modules: Vec<&str> =
            expected["lora"]["modules"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
        let mut spec = spec_of(&expected, (if upper { layers / 2 } else { 0 }..layers).collect(), &modules);
        spec.dropout = 0.1;
        let (_, start) = adapter_of(&setup, &folder.join("adapter"));
        let records = expected["adamw"]["records"].as_array().unwrap();
        let examples = records.iter().map(example).collect();
        Self { name, setup, spec, start, examples }
    }

    fn batch(&self, step: usize) -> Batch {
        let count = self.examples.len();
        Batch::assemble(&self.examples, &[step % count, (step + 1) % count])
    }

    fn trainer(&self, mode: Mode, max_tokens: usize) -> Trainer {
        let config = &self.setup.files.config;
        let shape = StepShape { max_tokens, accumulate: false, recompute: mode.recompute, held_out_tokens: 0 };
        let prefix = mode.prefix.then(|| {
            let lengths = self.examples.iter().map(|example| example.input_ids.len());
            let store = Store::new(&StorePlan::new(lengths, config.hidden_size, PrefixCacheType::F32, usize::MAX), None).unwrap();
            PrefixCache::new(&self.setup.weights, config, self.spec.layers[0], max_tokens, store).unwrap()
        });
        let adapter = self.setup.adapter(&self.spec, &self.start);
        Trainer::new(self.setup.weights.clone(), config, adapter, shape, 7, prefix).unwrap()
    }

    fn run(&self, mode: Mode) -> Outcome {
        let batches: Vec<Batch> = (0..STEPS).map(|step| self.batch(step)).collect();
        let max_tokens = batches.iter().map(Batch::rows).max().unwrap();
        let mut trainer = self.trainer(mode, max_tokens);
        let mut steps = Vec::new();
        for (index, batch) in batches.iter().enumerate() {
            if mode.stop_after == Some(index) {
                let adapter = trainer.adapter().layout.pack("kept", &trainer.adapter().tensors().unwrap()).unwrap();
                let ([first, second], batches) = trainer.optimizer_state().unwrap();
                trainer = self.trainer(mode, max_tokens);
                trainer.restore(&adapter, [&first, &second], batches);
            }
            if mode.profile && trainer.can_profile() {
                trainer.start_profile();
            }
            let loss = trainer.accumulate(batch, 1.0 / batch.supervised_rows.len() as f64, true).unwrap();
            let norm = trainer.apply(&Hyper { step: index as u64 + 1, ..hyper(1e-2, 0.01, 1.0) }).unwrap();
            if mode.profile && trainer.can_profile() {
                assert!(!trainer.take_profile().is_empty(), "{}: nothing was profiled", self.name);
            }
            assert!(loss.is_finite() && norm.is_finite() && norm > 0.0, "{} step {index}: loss {loss}, norm {norm}", self.name);
            steps.push([loss.to_bits(), norm.to_bits()]);
        }
        if mode.prefix {
            let used = trainer.prefix().unwrap().rows_used();
            assert!(used.stored > 0 && used.computed > 0, "{}: {used:?}", self.name);
        }
        let tensors = trainer.adapter().tensors().unwrap();
        let adapter = tensors.iter().flat_map(|tensor| tensor.values.iter().map(|value| value.to_bits())).collect();
        Outcome { steps, adapter }
    }
}

#[test]
fn no_mode_of_a_run_changes_a_bit_in_any_family() {
    for name in FAMILIES {
        let family = Family::open(name, false, WeightType::Lossless);
        let plain = family.run(PLAIN);
        assert_eq!(plain.steps.len(), STEPS);
        let layers = family.setup.files.config.layers.len();
        let modes = [
            ("recomputed", Mode { recompute: Recompute::Layers(layers), ..PLAIN }),
            ("resumed", Mode { stop_after: Some(2), ..PLAIN }),
            ("profiled", Mode { profile: true, ..PLAIN }),
        ];
        for (what, mode) in modes {
            assert!(family.run(mode) == plain, "{name}, {what}");
        }
        let upper = Family { spec: Family::open(name, true, WeightType::Lossless).spec, ..family };
        let plain = upper.run(PLAIN);
        assert!(upper.run(Mode { prefix: true, ..PLAIN }) == plain, "{name}, with a prefix cache");
    }
}

#[test]
fn every_family_trains_in_blocks_of_eight_bits() {
    for name in FAMILIES {
        // The run itself asserts that losses and norms are finite.
        let (exact, rounded) = (WeightType::Lossless, WeightType::In(graftling::graph::DType::Q8_0));
        let [exact, rounded] = [exact, rounded].map(|weight_type| Family::open(name, false, weight_type).run(PLAIN).steps);
        let first = [&exact, &rounded].map(|steps| f64::from_bits(steps[0][0]));
        assert!((first[0] - first[1]).abs() < 0.2, "{name}: {first:?}");
    }
}

/// A window that holds the longest row keeps nothing from being seen.
#[test]
fn a_window_as_long_as_the_row_is_no_window() {
    for name in FAMILIES {
        let mut family = Family::open(name, false, WeightType::Lossless);
        let longest = family.examples.iter().map(|example| example.input_ids.len()).max().unwrap();
        let mut under = |window: Option<usize>| {
            let config: &mut Architecture = &mut family.setup.files.config;
            config.layers.iter_mut().for_each(|layer| layer.window = window);
            family.run(PLAIN)
        };
        let (none, long, short) = (under(None), under(Some(longest)), under(Some(2)));
        assert!(long == none, "{name}");
        assert!(short != none, "{name}: a window of two tokens changes nothing");
    }
}

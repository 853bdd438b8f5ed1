//! The frozen prefix: a row's hidden states depend on its own example alone, so they may be kept; and a run that keeps them is bitwise
//! the run that does not.

mod common;
mod runs;

use std::ops::Range;
use std::sync::Arc;

use common::{device, device_with};
use graftling::adapter::{DeviceAdapter, UniformLora};
use graftling::architecture::Architecture;
use graftling::data::{Batch, Example};
use graftling::gpu::Device;
use graftling::graph::{Counts, DType, Graph, Origin, ValueId};
use graftling::kernel::Facts;
use graftling::model::graph::{Head, Model, Part, Purpose};
use graftling::model::hook::Bare;
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::ops::Random;
use graftling::session::prefix_cache::{Lowest, PrefixCache, PrefixCacheType, RowsUsed, Store, StorePlan};
use graftling::storage::{TensorInfo, TensorSource};
use graftling::train::memory::{Planner, StepShape};
use graftling::train::step::{LossGraph, Recompute};
use graftling::train::trainer::Trainer;
use runs::{Workshop, run};

/// Four layers of these sizes.
fn config([hidden_size, intermediate_size, head_dim]: [usize; 3]) -> Architecture {
    let json = format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "num_hidden_layers": 4,
        "vocab_size": 60, "hidden_size": {hidden_size}, "intermediate_size": {intermediate_size}, "num_attention_heads": 3,
        "num_key_value_heads": 1, "head_dim": {head_dim}, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 64,
        "tie_word_embeddings": true}}"#
    );
    Architecture::from_json_str(&json).unwrap()
}

const SMALL: [usize; 3] = [32, 40, 16];

/// Nodes by name, and what they compute with.
fn nodes(graph: &Graph) -> Vec<(String, String)> {
    graph.nodes().iter().map(|node| (node.name.clone(), format!("{:?} {:?}", node.op, node.inputs.len()))).collect()
}

#[test]
fn two_parts_that_meet_at_a_layer_are_the_whole_model() {
    let config = config(SMALL);
    let build = |part| Model::build(&config, &|_| DType::F32, &mut Bare, Purpose::Evaluate, part, 16).unwrap();
    let whole = build(Part::Whole);
    for layer in 0..=4 {
        let (below, above) = (build(Part::Below(layer)), build(Part::From(layer)));
        assert_eq!([nodes(&below.graph), nodes(&above.graph)].concat(), nodes(&whole.graph));
        let Head::Hidden(output) = below.head else { panic!("{:?}", below.head) };
        let input = above.inputs.hidden.unwrap();
        assert_eq!(below.graph[output].tensor, above.graph[input].tensor);
        assert_eq!(above.graph[input].origin, Origin::Input);
        // A tied embedding is one weight, also in a part that uses it only at the end.
        assert_eq!(above.weights.iter().filter(|(name, _)| name.contains("embed_tokens")).count(), 1);
    }
}

#[test]
fn a_step_above_the_prefix_has_no_node_below_it() {
    for (layers, modules) in [(vec![2, 3], vec!["q_proj", "down_proj"]), (vec![3], vec!["v_proj"]), (vec![1, 3], vec!["up_proj"])]
    {
        let first = layers[0];
        let target_modules = modules.into_iter().map(str::to_owned).collect();
        let lora = UniformLora { r: 4, scale: 2.0, dropout: 0.1, target_modules, layers }.on(&config(SMALL));
        let step = |part| LossGraph::build_part(&config(SMALL), &|_| DType::F32, &lora, part, 16).unwrap();
        let (whole, above) = (step(Part::Whole), step(Part::From(first)));
        let below =
            |name: &str| name.contains("embed_tokens") || (0..first).any(|layer| name.contains(&format!("layers.{layer}.")));
        let (lower, upper): (Vec<_>, Vec<_>) = nodes(&whole.model.graph).into_iter().partition(|(name, _)| below(name));
        assert!(!lower.is_empty());
        assert_eq!(nodes(&above.model.graph), upper, "what is above is what is left of the whole, forward and backward");
        let weights: Vec<_> = above.model.weights.iter().filter(|(name, _)| name.contains("layers.") && below(name)).collect();
        assert!(weights.is_empty(), "{weights:?}");
    }
}

/// Weights that need no file; the matrices rest as `matrices` says.
struct RandomWeights(Vec<TensorInfo>);

impl RandomWeights {
    fn new(config: &Architecture, matrices: DType) -> Self {
        let model = Model::build(config, &|_| DType::F32, &mut Bare, Purpose::Evaluate, Part::Whole, 1).unwrap();
        let info = |(name, id): &(String, ValueId)| {
            let [rows, columns] = model.graph[*id].tensor.shape.resolve(&Counts::default());
            let (shape, storage) = match name.contains("norm") {
                true => (vec![columns], DType::F32),
                false => (vec![rows, columns], matrices),
            };
            TensorInfo { name: name.clone(), shape, storage, bytes: 0 }
        };
        let mut tensors: Vec<TensorInfo> = model.weights.iter().map(info).collect();
        tensors.sort_by(|a, b| a.name.cmp(&b.name));
        Self(tensors)
    }
}

impl TensorSource for RandomWeights {
    fn tensors(&self) -> &[TensorInfo] {
        &self.0
    }

    fn unreadable(&self) -> &[(String, String)] {
        &[]
    }

    fn place(&self, _: &str) -> String {
        "random".to_owned()
    }

    fn read_rows(&self, name: &str, rows: Range<usize>) -> graftling::Result<Vec<u8>> {
        let info = self.find(name).unwrap();
        let mut random = Random(name.bytes().fold(rows.start as u64, |hash, byte| hash.wrapping_mul(31) + u64::from(byte)));
        let values = rows.len() * info.row_values();
        let offset = if name.contains("norm") { 1.0 } else { 0.0 };
        Ok(match info.storage {
            DType::Q4_1 => {
                let [d, m] = [0.04, -0.3].map(|value| half::f16::from_f32(value).to_le_bytes());
                let block = |_| [&d[..], &m, &[(); 16].map(|()| random.below(256) as u8)].concat();
                (0..values / 32).flat_map(block).collect()
            }
            _ => (0..values).flat_map(|_| (random.uniform() as f32 * 0.6 + offset).to_le_bytes()).collect(),
        })
    }
}

fn examples(lengths: &[usize]) -> Vec<Example> {
    let mut random = Random(9);
    let mut example = |&length: &usize| {
        let input_ids: Vec<u32> = (0..length).map(|_| random.below(60) as u32).collect();
        Example { labels: input_ids.iter().copied().map(Some).collect(), input_ids, line: 1 }
    };
    lengths.iter().map(&mut example).collect()
}

/// The hidden states of each example of a batch, as bits.
fn hidden(cache: &mut PrefixCache, device: &Device, batch: &Batch, columns: usize) -> Vec<(usize, Vec<u32>)> {
    cache.provide(batch).unwrap();
    let all: Vec<u32> = device.read(cache.hidden(), batch.rows() * columns).unwrap();
    let rows = batch.examples.iter().copied().zip(batch.rows_by_example());
    rows.map(|(example, rows)| (example, all[rows.start * columns..rows.end * columns].to_vec())).collect()
}

/// Examples of many lengths, alone and beside each other in several orders, with room for few rows and for many: the bits of a row are
/// always the same, so an example's states may be used wherever it is packed. The sizes suit matmul's aligned kernels, with narrow ones for
/// keys and values; its general ones; and those for blocks.
fn packing_changes_no_bit(device: &Arc<Device>) {
    for (sizes, matrices) in [([144, 200, 16], DType::F32), ([150, 202, 16], DType::F32), ([160, 192, 32], DType::Q4_1)] {
        let config = config(sizes);
        let hidden_size = sizes[0];
        let source = RandomWeights::new(&config, matrices);
        let weights = DeviceWeights::upload(device.clone(), &config, &source, WeightType::Lossless, |_, _| {}).unwrap();
        for (max_tokens, lengths) in [(12, &[1, 3, 2, 5, 1][..]), (160, &[1, 33, 7, 24, 2, 19, 3, 40, 13, 18])] {
            let examples = examples(lengths);
            let no_room = StorePlan::new(lengths.iter().copied(), hidden_size, PrefixCacheType::F32, 0);
            let mut cache = PrefixCache::new(&weights, &config, 2, max_tokens, Store::new(&no_room, None).unwrap()).unwrap();
            let all: Vec<usize> = (0..examples.len()).collect();
            let mut alone = Vec::new();
            for example in &all {
                alone.extend(hidden(&mut cache, device, &Batch::assemble(&examples, &[*example]), hidden_size));
            }
            assert!(alone.iter().all(|(_, bits)| bits.iter().all(|&bits| f32::from_bits(bits).is_finite())));
            for order in 0..6 {
                // Strides that are prime to 5 and 10, from different starts.
                let chosen: Vec<usize> = all.iter().map(|at| (order + at * [1, 3, 7][order % 3]) % all.len()).collect();
                for (example, bits) in hidden(&mut cache, device, &Batch::assemble(&examples, &chosen), hidden_size) {
                    assert!(bits == alone[example].1, "example {example} of {} tokens in {chosen:?}", lengths[example]);
                }
            }
            assert_eq!(cache.rows_used(), RowsUsed { stored: 0, computed: 7 * lengths.iter().sum::<usize>() as u64 });
        }
    }
}

#[test]
fn packing_changes_no_bit_with_the_kernels_of_this_device() {
    packing_changes_no_bit(&device());
}

#[test]
fn packing_changes_no_bit_with_the_kernels_for_gpus() {
    packing_changes_no_bit(&device_with(Facts { cpu_driver: false, subgroup: None, ..device().facts.clone() }));
}

#[test]
fn packing_changes_no_bit_with_the_kernels_for_cpu_drivers_without_subgroups() {
    packing_changes_no_bit(&device_with(Facts { cpu_driver: true, subgroup: None, ..device().facts.clone() }));
}

/// What a store holds is what the prefix gives, whichever part of a batch is stored.
#[test]
fn a_batch_is_put_together_from_stored_and_computed_examples() {
    let config = config(SMALL);
    let weights =
        DeviceWeights::upload(device(), &config, &RandomWeights::new(&config, DType::F32), WeightType::Lossless, |_, _| {})
            .unwrap();
    let lengths = [5, 9, 1, 12, 3];
    let examples = examples(&lengths);
    let open = |bound| {
        let plan = StorePlan::new(lengths.into_iter(), 32, PrefixCacheType::F32, bound);
        PrefixCache::new(&weights, &config, 3, 30, Store::new(&plan, None).unwrap()).unwrap()
    };
    // Room for the first three.
    let (mut none, mut some) = (open(0), open(15 * 32 * 4));
    for chosen in [&[3, 0, 4][..], &[1, 0], &[4, 2, 3, 1, 0], &[0, 1, 2], &[3]] {
        let batch = Batch::assemble(&examples, chosen);
        assert_eq!(hidden(&mut some, &device(), &batch, 32), hidden(&mut none, &device(), &batch, 32));
    }
    let stored = [0, 5, 14, 15, 0].into_iter().sum::<u64>();
    let rows = [20, 14, 30, 15, 12].into_iter().sum::<u64>();
    assert_eq!(some.rows_used(), RowsUsed { stored, computed: rows - stored });
}

#[test]
fn the_device_holds_what_the_plan_says() {
    let config = config(SMALL);
    let weights =
        DeviceWeights::upload(device(), &config, &RandomWeights::new(&config, DType::F32), WeightType::Lossless, |_, _| {});
    let weights = Arc::new(weights.unwrap());
    let lora = UniformLora { r: 4, scale: 2.0, dropout: 0.1, target_modules: vec!["up_proj".to_owned()], layers: vec![2, 3] };
    let lora = lora.on(&config);
    let shape = StepShape { max_tokens: 40, accumulate: true, recompute: Recompute::None, held_out_tokens: 0 };
    let lowest = Lowest { train: Some(2), held_out: None };
    let facts = &device().facts;
    let planned = Planner::new(&config, &|_| DType::F32, &lora, shape, weights.bytes(), facts, lowest).unwrap().memory();
    let store = Store::new(&StorePlan::new([40].into_iter(), 32, PrefixCacheType::F32, 0), None).unwrap();
    let cache = PrefixCache::new(&weights, &config, 2, 40, store).unwrap();
    let adapter = DeviceAdapter::fresh(device(), lora, 0).unwrap();
    let held = Trainer::new(weights, &config, adapter, shape, 0, Some(cache)).unwrap().memory();
    assert_eq!(planned, held);
}

/// `train` with adapters on the upper two of the fixture's three layers, and held-out data.
fn train(shop: &Workshop, out: &str, more: &[&str]) -> String {
    let common = ["--layers", "1-2", "--eval-data", "held-out.jsonl", "--eval-steps", "3"];
    run(shop.train(out, &[&common[..], more].concat()), 0).1
}

/// Rows from the cache and rows in all, as `train` says at the end; `None` if it had no cache.
fn rows_used(said: &str) -> Option<(u64, u64)> {
    let line = said.lines().find(|line| line.starts_with("prefix cache:") && line.contains("token rows"))?;
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse().ok());
    Some((numbers.next()?, numbers.next()?))
}

#[test]
fn a_run_with_the_cache_is_bitwise_the_run_without() {
    let shop = Workshop::new();
    // Packed, shuffled, accumulated, with dropout; then one record a row in order.
    for (name, options) in [("packed", &["--epochs", "3"][..]), ("rows", &["--epochs", "3", "--no-packing", "--no-shuffle"])] {
        let out = |cache: &str| format!("{name}-{cache}");
        let said = train(&shop, &out("off"), &[options, &["--prefix-cache", "off"]].concat());
        assert!(!said.contains("prefix cache"), "{said}");
        let expected = shop.result(&out("off"));
        assert!(expected.0.len() >= 9 && expected.0.iter().any(|step| !step.ends_with("null")), "{expected:?}");
        let caches: [(&str, &[&str]); 5] = [
            ("auto", &[]),
            ("memory", &["--prefix-cache", "memory"]),
            ("disk", &["--prefix-cache", "disk"]),
            ("part", &["--prefix-cache-size", "20KiB"]),
            ("recomputed", &["--recompute", "all"]),
        ];
        for (cache, more) in caches {
            let said = train(&shop, &out(cache), &[options, more].concat());
            assert!(shop.result(&out(cache)) == expected, "{name} {cache}");
            let (stored, rows) = rows_used(&said).unwrap_or_else(|| panic!("{said}"));
            match cache {
                "part" => assert!(stored > 0 && 3 * stored < 2 * rows, "{said}"),
                _ => assert_eq!(3 * stored, 2 * rows, "the first of three epochs fills it: {said}"),
            }
            let left = shop.names(&out(cache));
            assert_eq!(left.iter().filter(|name| name.contains("cache")).count(), 0, "{left:?}");
        }
    }
}

#[test]
fn a_run_that_goes_on_has_the_numbers_of_one_that_never_stopped() {
    let shop = Workshop::new();
    let constant = ["--lr-schedule", "constant", "--max-steps"];
    train(&shop, "whole", &[&constant[..], &["10", "--prefix-cache", "off"]].concat());
    for (out, more) in [("memory", &["--prefix-cache", "memory"][..]), ("disk", &["--prefix-cache", "disk"]), ("mixed", &[])] {
        train(&shop, out, &[&constant[..], &["6"], more].concat());
        let said = train(
            &shop,
            out,
            &[&constant[..], &["10", "--resume"], if out == "mixed" { &["--prefix-cache", "off"] } else { more }].concat(),
        );
        assert!(shop.result(out) == shop.result("whole"), "{out}: {said}");
    }
}

/// bf16 rounds to 8 bits, f16 to 11: losses near 4 move by less than these bounds, and not at all with what the cache has room for.
#[test]
fn small_types_change_the_losses_a_little_and_the_same_under_every_bound() {
    let shop = Workshop::new();
    let losses = |out: &str| -> Vec<f64> { shop.metrics(out).iter().map(|step| step["loss"].as_f64().unwrap()).collect() };
    let constant = ["--lr-schedule", "constant", "--max-steps", "8"];
    train(&shop, "f32", &constant);
    for (dtype, bound) in [("bf16", 2e-2), ("f16", 2e-3)] {
        let out = |name: &str| format!("{dtype}-{name}");
        let typed = [&constant[..], &["--prefix-cache-type", dtype]].concat();
        train(&shop, &out("all"), &typed);
        for (rounded, exact) in losses(&out("all")).iter().zip(losses("f32")) {
            assert!((rounded - exact).abs() <= bound, "{dtype}: {rounded} {exact}");
        }
        assert_ne!(losses(&out("all")), losses("f32"));
        for (name, more) in [("part", ["--prefix-cache-size", "9KiB"]), ("disk", ["--prefix-cache", "disk"])] {
            train(&shop, &out(name), &[&typed[..], &more].concat());
            assert!(shop.result(&out(name)) == shop.result(&out("all")), "{dtype} {name}");
        }
        // A run of less than one epoch rounds as well, so that it can go on for longer.
        let (mut short, mut long) = (typed.clone(), typed.clone());
        short[3] = "3";
        train(&shop, &out("short"), &short);
        long.push("--resume");
        train(&shop, &out("short"), &long);
        assert!(shop.result(&out("short")) == shop.result(&out("all")), "{dtype}, in two runs");
    }
    let resumed = ["--layers", "1-2", "--eval-data", "held-out.jsonl", "--eval-steps", "3", "--resume"];
    let (_, err) = run(shop.train("bf16-all", &[&resumed[..], &constant].concat()), 2);
    assert!(err.contains("prefix_cache_type was \"bf16\" and is nothing"), "{err}");
}

#[test]
fn the_summary_tells_what_the_cache_will_hold_before_anything_is_allocated() {
    let shop = Workshop::new();
    let summary = |more: &[&str]| run(shop.train("out", &[&["--dry-run", "--layers", "1-2"], more].concat()), 0).0;
    let said = summary(&[]);
    assert!(said.contains("prefix cache: layer 0 runs once a record, for 24 of 24 records"), "{said}");
    assert!(said.contains("% fewer operations"), "{said}");
    assert!(summary(&["--prefix-cache", "disk", "--prefix-cache-type", "bf16"]).contains("on disk (bf16)"));
    assert!(!summary(&["--max-steps", "2"]).contains("prefix cache"), "less than one epoch has nothing to gain");
    let arguments = ["--dry-run", "--prefix-cache", "memory"];
    let (_, err) = run(shop.train("out", &arguments), 2);
    assert!(err.contains("--prefix-cache") && err.contains("--layers"), "{err}");
    let (_, err) = run(shop.train("out", &["--dry-run", "--prefix-cache-size", "much"]), 2);
    assert!(err.contains("`much` is no size"), "{err}");
}

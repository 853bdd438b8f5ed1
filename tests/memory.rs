//! Memory of a training step: what the plan says, what recompute saves, and that it changes no number.

mod common;
mod runs;

use common::device;
use graftling::adapter::start::Start;
use graftling::adapter::{AdapterLayout, DeviceAdapter, UniformLora};
use graftling::architecture::Architecture;
use graftling::data::{Batch, Example};
use graftling::formats::ModelFiles;
use graftling::generate::{Generation, Generator};
use graftling::gpu::{Device, Room};
use graftling::graph::DType;
use graftling::kernel::{Arithmetic, Facts};
use graftling::model::weights::{DeviceWeights, WeightType};
use graftling::ops::Random;
use graftling::ops::adamw::Hyper;
use graftling::session::evaluate::Evaluation;
use graftling::session::memory::Needs;
use graftling::session::prefix_cache::Lowest;
use graftling::session::{OpenModel, Session, SessionOptions, Use};
use graftling::train::eva::Eva;
use graftling::train::memory::{Memory, Planner, StepShape};
use graftling::train::step::Recompute;
use graftling::train::trainer::Trainer;
use runs::{Workshop, fixture, run};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

const ALL: [&str; 7] = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];

fn lora(layers: std::ops::Range<usize>, modules: &[&str], dropout: f64) -> UniformLora {
    let target_modules = modules.iter().map(|&module| module.to_owned()).collect();
    UniformLora { r: 8, scale: 2.0, dropout, target_modules, layers: layers.collect() }
}

/// SmolLM2-135M: hidden 576, 9 heads and 3 key/value heads of 64, inner 1536, 30 layers.
fn smollm2() -> Architecture {
    let json = r#"{"architectures":["LlamaForCausalLM"],"vocab_size":49152,"hidden_size":576,"intermediate_size":1536,"num_hidden_layers":30,
        "num_attention_heads":9,"num_key_value_heads":3,"rms_norm_eps":1e-5,"max_position_embeddings":8192,"tie_word_embeddings":true}"#;
    Architecture::from_json_str(json).unwrap()
}

fn planner(lora: &UniformLora, max_tokens: usize) -> Planner {
    let shape = StepShape { max_tokens, accumulate: false, recompute: Recompute::None, held_out_tokens: 0 };
    Planner::new(&smollm2(), &|_| DType::F32, &lora.on(&smollm2()), shape, 0, &Facts::default(), Lowest::default()).unwrap()
}

/// Columns of f32 that a layer with adapters on everything keeps for its backward pass besides what enters it: both norms' outputs
/// (hidden), query and attention's output (hidden), key and value, the log-sum-exp of each head, the middle of the block (hidden),
/// gate, up and their product (inner), and x A^T of each adapter.
const LAYER_COLUMNS: usize = 5 * 576 + 2 * 192 + 9 + 3 * 1536 + 7 * 8;
/// Of these, what is computed again at next to no cost: the norms' outputs and the product of gate and up.
const CHEAP_COLUMNS: usize = 2 * 576 + 1536;

/// With every layer computed again, a layer keeps what enters it, and no more.
#[test]
fn a_recomputed_layer_keeps_its_input_alone() {
    let tokens = 512;
    let activations = |count: Recompute| planner(&lora(0..30, &ALL, 0.0), tokens).with(count).memory().activations;
    let (kept, cheap) = (activations(Recompute::None), activations(Recompute::Layers(0)));
    let saved = |from: usize, to: usize| (from - to) as f64 / (4 * tokens) as f64;
    // While the topmost layer has its backward pass, its own values are there again: one layer's worth is never saved.
    let within = |found: f64, layers: f64, columns: usize| {
        let expected = layers * columns as f64;
        assert!((found / expected - 1.0).abs() < 0.05, "{found} columns saved, {expected} expected");
    };
    within(saved(kept, cheap), 29.0, CHEAP_COLUMNS);
    within(saved(activations(Recompute::Layers(5)), activations(Recompute::Layers(25))), 20.0, LAYER_COLUMNS - CHEAP_COLUMNS);
    for count in 0..30 {
        let [more, less] = [count, count + 1].map(|count| activations(Recompute::Layers(count)));
        assert!(less < more, "layer {count}: {less} bytes, {more} without it");
    }
    assert_eq!(activations(Recompute::Layers(30)), activations(Recompute::Layers(usize::MAX)));
}

/// The nodes that run again stand right before the first backward node that reads them, and nothing runs again that it does not read.
#[test]
fn recompute_repeats_what_the_backward_pass_reads_and_no_more() {
    let kept = planner(&lora(20..30, &ALL, 0.1), 64);
    assert_eq!(kept.layers(), 10, "layers below the lowest adapted one have no backward pass");
    let flops = |count| kept.clone().with(Recompute::Layers(count)).extra_flops();
    assert!(flops(0) > 0.0 && flops(0) < 2e-3, "{}", flops(0));
    assert!((1..=10).all(|count| flops(count) > flops(count - 1)));
    assert_eq!(flops(10), flops(11));
    // A layer's forward pass without down_proj, which ends the layer and is read by the next one alone.
    let layer = 2.0 * 64.0 * (576 * (576 + 192 + 192 + 576) + 2 * 576 * 1536) as f64;
    let forward_and_backward = 2.0 * 64.0 * (40 * 576 * (576 + 192 + 192 + 576 + 3 * 1536) + 2 * 576 * 49152) as f64;
    let (found, expected) = (flops(10), 10.0 * layer / forward_and_backward);
    assert!((found / expected - 1.0).abs() < 0.1, "{found} more, {expected} expected");
}

/// The budget is met with the fewest layers, and a byte less needs one more.
#[test]
fn a_budget_is_met_with_the_fewest_layers() {
    let planner = planner(&lora(10..30, &ALL, 0.0), 256);
    let total = |recompute: Recompute| planner.clone().with(recompute).memory().total();
    let none = total(Recompute::None);
    assert_eq!(planner.least_recompute(none), Some(Recompute::None));
    assert_eq!(planner.least_recompute(none - 1), Some(Recompute::Layers(0)));
    for count in 0..20 {
        let bytes = total(Recompute::Layers(count));
        assert_eq!(planner.least_recompute(bytes), Some(Recompute::Layers(count)));
        assert_eq!(planner.least_recompute(bytes - 1), Some(Recompute::Layers(count + 1)));
    }
    assert_eq!(planner.least_recompute(total(Recompute::Layers(20)) - 1), None);
}

/// Activations grow with the tokens and not with their square: each token of a longer row costs what it costs in a shorter one.
#[test]
fn activations_grow_linearly_with_the_row() {
    for recompute in [Recompute::None, Recompute::Layers(0), Recompute::Layers(30)] {
        let lengths = [512, 1024, 2048, 4096];
        let bytes = lengths.map(|tokens| planner(&lora(0..30, &ALL, 0.0), tokens).with(recompute).memory().activations as f64);
        let slopes: Vec<f64> = (1..4).map(|at| (bytes[at] - bytes[at - 1]) / (lengths[at] - lengths[at - 1]) as f64).collect();
        // Where all is recomputed, the one chunk of logits that exists at a time gives room to the rest of short rows.
        let bound = if recompute == Recompute::Layers(30) { 0.12 } else { 0.03 };
        assert!(slopes.iter().all(|slope| (slope / slopes[2] - 1.0).abs() < bound), "{recompute:?}: {slopes:?} bytes a token");
        assert!(bytes[3] <= 8.2 * bytes[0], "{bytes:?}");
    }
}

/// What three optimizer steps of two batches each leave behind.
#[derive(PartialEq, Debug)]
struct Trace {
    losses: Vec<u64>,
    norms: Vec<u64>,
    gradients: Vec<u32>,
    adapter: Vec<u32>,
    moments: Vec<u32>,
}

fn train(weights: &Arc<DeviceWeights>, config: &Architecture, lora: &UniformLora, recompute: Recompute) -> Trace {
    train_laid_out(weights, config, lora, recompute, AdapterLayout::new(&lora.on(config)))
}

fn train_laid_out(
    weights: &Arc<DeviceWeights>,
    config: &Architecture,
    lora: &UniformLora,
    recompute: Recompute,
    layout: AdapterLayout,
) -> Trace {
    // B is not zero, or A would have no gradient.
    let contents: Vec<f32> = Random(4).matrix([1, layout.elements()], 0.3).data.iter().map(|&x| x as f32).collect();
    let adapter = DeviceAdapter::new(weights.device().clone(), lora.on(config), layout, &contents).unwrap();
    let shape = StepShape { max_tokens: 40, accumulate: true, recompute, held_out_tokens: 0 };
    let mut trainer = Trainer::new(weights.clone(), config, adapter, shape, 7, None).unwrap();
    let mut random = Random(3);
    let mut trace = Trace { losses: vec![], norms: vec![], gradients: vec![], adapter: vec![], moments: vec![] };
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<u32>>();
    for step in 1..=3 {
        for (index, lengths) in [[17, 5], [9, 31]].iter().enumerate() {
            let examples: Vec<Example> = lengths
                .iter()
                .map(|&length| {
                    let input_ids: Vec<u32> = (0..length).map(|_| random.below(config.vocab_size) as u32).collect();
                    Example { labels: input_ids.iter().copied().map(Some).collect(), input_ids, line: 1 }
                })
                .collect();
            let batch = Batch::assemble(&examples, &[0, 1]);
            let loss = trainer.accumulate(&batch, 1.0 / 58.0, index == 0).unwrap();
            assert!(loss.is_finite() && loss > 0.0);
            trace.losses.push(loss.to_bits());
            trace.gradients.extend(bits(&trainer.gradients().unwrap()));
        }
        let hyper =
            Hyper { learning_rate: 1e-2, beta1: 0.9, beta2: 0.999, eps: 1e-8, weight_decay: 0.1, step, max_grad_norm: 1.0 };
        trace.norms.push(trainer.apply(&hyper).unwrap().to_bits());
    }
    trace.adapter = bits(&trainer.adapter().contents().unwrap());
    trace.moments = trainer.optimizer_state().unwrap().0.iter().flat_map(|moment| bits(moment)).collect();
    trace
}

/// Losses, gradients, adapter and moments are the same bit by bit, whatever is computed again: with dropout, several batches a step,
/// and adapters on some layers and modules only.
#[test]
fn recompute_changes_no_bit() {
    for model in ["grouped_tied", "mha_untied"] {
        let folder = fixture().parent().unwrap().join(model);
        let files = ModelFiles::open(folder.to_str().unwrap()).unwrap();
        let weights = DeviceWeights::upload(device(), &files.config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap();
        let weights = Arc::new(weights);
        let layers = files.config.num_hidden_layers;
        let mut seen = Vec::new();
        for lora in [
            lora(0..layers, &ALL, 0.0),
            lora(0..layers, &ALL, 0.3),
            lora(1..layers, &["v_proj", "o_proj"], 0.0),
            lora(1..2, &["down_proj"], 0.5),
        ] {
            let kept = train(&weights, &files.config, &lora, Recompute::None);
            assert!(!seen.contains(&kept.adapter), "the cases do not differ");
            for count in [0, 1, layers] {
                let again = train(&weights, &files.config, &lora, Recompute::Layers(count));
                assert!(kept == again, "{model}, {:?} with dropout {}: {count} layers again", lora.target_modules, lora.dropout);
            }
            seen.push(kept.adapter);
        }
    }
}

/// An adapter that is too large for one binding lies in several buffers. Loss and gradients do not depend on that; the norm is added up in
/// another order, which clipping carries into the update: 1e-5 of the largest element, a hundred times its rounding.
#[test]
fn an_adapter_in_several_buffers_trains_as_one_in_one() {
    let files = ModelFiles::open(fixture().to_str().unwrap()).unwrap();
    let config = &files.config;
    let weights = DeviceWeights::upload(device(), config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap();
    let weights = Arc::new(weights);
    let lora = lora(0..config.num_hidden_layers, &ALL, 0.0);
    let one = train(&weights, config, &lora, Recompute::None);
    for span in [1, 5000] {
        let layout = AdapterLayout::with_span(&lora.on(config), span);
        let (buffers, matrices) = (layout.span_elements().len(), layout.tensors.len());
        assert!(if span == 1 { buffers == matrices } else { buffers > 2 && buffers < matrices }, "{buffers} buffers");
        let several = train_laid_out(&weights, config, &lora, Recompute::None, layout);
        assert_eq!(several.losses[..2], one.losses[..2]);
        assert_eq!(several.gradients[..one.gradients.len() / 6], one.gradients[..one.gradients.len() / 6]);
        let values = |bits: &[u32]| bits.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<f32>>();
        for (found, expected) in [(&several.adapter, &one.adapter), (&several.moments, &one.moments)] {
            let (found, expected) = (values(found), values(expected));
            assert_eq!(found.len(), expected.len());
            let largest = expected.iter().fold(0f32, |most, value| most.max(value.abs()));
            let worst = found.iter().zip(&expected).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(worst <= 1e-5 * largest, "span {span}: {worst} of {largest}");
        }
    }
}

/// The program: same numbers and same adapter with and without, a budget that chooses, and one that cannot be met.
#[test]
fn the_program_recomputes_and_keeps_to_a_budget() {
    let shop = Workshop::new();
    run(shop.train("kept", &["--max-steps", "4", "--recompute", "none"]), 0);
    let kept = shop.result("kept");
    let (_, said) = run(shop.train("unasked", &["--max-steps", "4"]), 0);
    assert!(said.contains("recompute: norms and activation functions"), "{said}");
    assert_eq!(shop.result("unasked"), kept);
    let (_, said) = run(shop.train("all", &["--max-steps", "4", "--recompute", "all"]), 0);
    assert!(said.contains("recompute: 3 of 3 layers") && said.contains("% more arithmetic"), "{said}");
    assert_eq!(shop.result("all"), kept);

    // A run may go on with another choice: no number depends on it.
    run(shop.train("mixed", &["--max-steps", "2", "--lr-schedule", "constant", "--recompute", "2"]), 0);
    run(shop.train("mixed", &["--max-steps", "4", "--lr-schedule", "constant", "--resume"]), 0);
    run(shop.train("constant", &["--max-steps", "4", "--lr-schedule", "constant"]), 0);
    assert_eq!(shop.result("mixed"), shop.result("constant"));

    let bytes = |out: &str| shop.metrics(out)[0]["gpu_bytes"].as_u64().unwrap();
    assert!(bytes("all") < bytes("unasked") && bytes("unasked") < bytes("kept"));
    // The plan does not know the device yet, so it counts a few more kernel calls than there will be.
    let budget = (bytes("kept") * 21 / 20).to_string();
    let (_, said) = run(shop.train("roomy", &["--max-steps", "4", "--memory-budget", &budget]), 0);
    assert!(!said.contains("recompute"), "nothing is computed again where there is room: {said}");
    let budget = ((bytes("all") + bytes("kept")) / 2).to_string();
    let (_, said) = run(shop.train("budget", &["--max-steps", "4", "--memory-budget", &budget]), 0);
    assert!(said.contains("recompute: "), "{said}");
    assert!(bytes("budget").to_string() <= budget);
    assert_eq!(shop.result("budget"), kept);

    let (_, said) = run(shop.train("tight", &["--memory-budget", "100kB"]), 2);
    assert!(said.contains("--memory-budget: 0 MiB are not enough") && said.contains("--max-length"), "{said}");
    let (_, said) = run(shop.train("auto", &["--recompute", "auto"]), 2);
    assert!(said.contains("--memory-budget"), "{said}");
    let (_, said) = run(shop.train("typo", &["--recompute", "most"]), 2);
    assert!(said.contains("neither none, cheap, all, auto nor a number"), "{said}");
    assert!(!shop.path("tight").exists() && !shop.path("auto").exists());
}

/// `found` within 5 % of `planned`.
#[track_caller]
fn assert_as_planned(found: usize, planned: usize, what: &str) {
    let ratio = found as f64 / planned as f64;
    assert!((ratio - 1.0).abs() < 0.05, "{what}: {found} bytes on the device, {planned} in the plan");
}

/// What is on the device during training, with evaluation between steps and several batches a step, is what the plan says: class by
/// class, in all, and at its peak. A device of its own, so that nobody else allocates on it.
fn plan_and_device_agree(model: &Path, tokens: usize, recompute: Recompute, driver: bool) {
    let device = Arc::new(Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap());
    let files = ModelFiles::open(model.to_str().unwrap()).unwrap();
    let config = &files.config;
    let lora = lora(0..config.num_hidden_layers, &ALL, 0.0);
    let shape = StepShape { max_tokens: tokens, accumulate: true, recompute, held_out_tokens: tokens };
    let storage = |name: &str| files.tensors.find(name).map_or(DType::F32, |info| WeightType::Lossless.of(info));
    let bytes = graftling::architecture::parameters(config)
        .iter()
        .map(|parameter| WeightType::Lossless.bytes(files.tensors.find(&parameter.name).unwrap()))
        .sum();
    let planned =
        Planner::new(config, &storage, &lora.on(config), shape, bytes, &device.facts, Lowest::default()).unwrap().memory();

    let weights = DeviceWeights::upload(device.clone(), config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap();
    let weights = Arc::new(weights);
    let adapter = DeviceAdapter::fresh(device.clone(), lora.on(config), 0).unwrap();
    let mut trainer = Trainer::new(weights.clone(), config, adapter, shape, 0, None).unwrap();
    let before = device.allocated().now;
    let mut evaluator = trainer.evaluator(config, tokens, None).unwrap();
    let evaluation = device.allocated().now - before;
    let input_ids: Vec<u32> = (0..tokens).map(|at| (at * 7 % config.vocab_size) as u32).collect();
    let example = Example { labels: input_ids.iter().copied().map(Some).collect(), input_ids, line: 1 };
    let batch = Batch::assemble(&[example], &[0]);
    let loss = trainer.accumulate(&batch, 1.0 / (tokens - 1) as f64, true).unwrap();
    let nll = evaluator.token_nll(&batch).unwrap();
    let evaluated = nll.iter().map(|&nll| f64::from(nll)).sum::<f64>() / nll.len() as f64;
    // The same numbers, in memory that the other one has just used.
    assert!((evaluated - loss).abs() < 1e-4, "{evaluated} evaluated, {loss} trained");
    assert_eq!(trainer.accumulate(&batch, 1.0 / (tokens - 1) as f64, true).unwrap(), loss);

    let found = trainer.memory();
    let classes = |memory: Memory| [memory.weights, memory.adapters, memory.optimizer, memory.activations, memory.inputs];
    let names = ["weights", "adapters", "optimizer", "activations", "inputs"];
    for ((found, planned), name) in classes(found).into_iter().zip(classes(planned)).zip(names) {
        assert_as_planned(found, planned, name);
    }
    assert_as_planned(evaluation, planned.evaluation, "evaluation");
    assert_as_planned(device.allocated().now, planned.total(), "all");
    assert_as_planned(device.allocated().peak, planned.total(), "all at the peak");
    if let (true, Some(reserved)) = (driver, device.reserved()) {
        assert_as_planned(reserved, planned.total(), "set aside by the driver");
    }
}

/// Evaluation and generation, with an adapter: what is refused or allowed beforehand is what they will take.
#[test]
fn a_session_holds_what_it_says_it_needs() {
    let shop = Workshop::new();
    let model = OpenModel::open(shop.path("model").to_str().unwrap()).unwrap();
    let options = SessionOptions {
        device: std::env::var("GRAFTLING_TEST_DEVICE").ok(),
        matmul: Arithmetic::F32,
        weights: WeightType::Lossless,
        autotune: false,
        cache: None,
    };
    let config = &model.files.config;
    let (evaluation, generation) = (Evaluation { max_tokens: 64 }, Generation { context: 48 });
    let uses: [(&str, &dyn Use); 2] = [("evaluation", &evaluation), ("generation", &generation)];
    for (name, used) in uses {
        let session = Session::open(&model, Some(&fixture().join("adapter")), &options, &[used], &()).unwrap();
        let device = session.weights().device().clone();
        let placement = session.adapter().map(|adapter| &adapter.placement);
        let models = used.models(config, &model.storage(WeightType::Lossless), placement).unwrap();
        let _holder: Box<dyn std::any::Any> = match name {
            "evaluation" => Box::new(session.evaluator(evaluation.max_tokens).unwrap()),
            _ => Box::new(Generator::of(&session, generation).unwrap()),
        };
        let needs = Needs {
            weights: model.weight_bytes(WeightType::Lossless),
            adapter: session.adapter().unwrap().bytes(),
            ..Needs::of(&models, &device.facts)
        };
        assert_as_planned(device.allocated().now, needs.total(), name);
        let room = |free: usize| Room { free: Some((free as u64, "as the test says")), largest_binding: usize::MAX };
        assert_eq!(needs.check_room("GPU `test`", &room(needs.total()), &[]).ok(), Some(()));
        let refused = needs.check_room("GPU `test`", &room(needs.total() - 1), &["less of it"]).unwrap_err().to_string();
        assert!(
            refused.contains("as the test says") && refused.contains("weights") && refused.contains("less of it"),
            "{refused}"
        );
        let (name, bytes) = needs.largest.clone().unwrap();
        let narrow = Room { free: None, largest_binding: bytes - 1 };
        let refused = needs.check_room("GPU `test`", &narrow, &[]).unwrap_err().to_string();
        assert!(refused.contains(&format!("`{name}`")) && refused.contains("in one piece"), "{refused}");
    }
}

#[test]
fn the_device_holds_what_the_plan_says() {
    for recompute in [Recompute::None, Recompute::Layers(0), Recompute::Layers(usize::MAX)] {
        plan_and_device_agree(&fixture(), 96, recompute, false);
    }
}

/// The same with SmolLM2 where `GRAFTLING_TEST_MODEL` names its file: there the driver's blocks are small beside what they hold.
#[test]
fn the_device_holds_what_the_plan_says_of_smollm2() {
    if let Ok(model) = std::env::var("GRAFTLING_TEST_MODEL") {
        plan_and_device_agree(Path::new(&model), 64, Recompute::Layers(10), true);
    }
}

/// A start that looks at the data is done before a step has its memory, and takes less, even where a step keeps what enters a layer alone.
#[test]
fn the_start_eva_takes_less_than_a_step() {
    let device = Arc::new(Device::open(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref()).unwrap());
    let files = ModelFiles::open(fixture().to_str().unwrap()).unwrap();
    let config = &files.config;
    let placement = lora(0..config.num_hidden_layers, &ALL, 0.0).on(config).learning(Start::Eva, 1.0);
    let weights = DeviceWeights::upload(device.clone(), config, &*files.tensors, WeightType::Lossless, |_, _| {}).unwrap();
    let (storage, bytes) = (|name: &str| weights.dtype(name), weights.bytes());
    for max_tokens in [96, 960] {
        let recompute = Recompute::Layers(usize::MAX);
        let shape = StepShape { max_tokens, accumulate: false, recompute, held_out_tokens: 0 };
        let planned =
            Planner::new(config, &storage, &placement, shape, bytes, &device.facts, Lowest::default()).unwrap().memory();
        let mut random = Random(1);
        let mut batch = || {
            let input_ids: Vec<u32> = (0..max_tokens).map(|_| random.below(config.vocab_size) as u32).collect();
            let labels = input_ids.iter().copied().map(Some).collect();
            Batch::assemble(&[Example { labels, input_ids, line: 1 }], &[0])
        };
        let adapter = DeviceAdapter::fresh(device.clone(), placement.clone(), 0).unwrap();
        let eva = Eva::new(&weights, config, &adapter, max_tokens).unwrap();
        let batches = [batch(), batch()].into_iter();
        eva.start(batches, placement.initial(0), |_| ControlFlow::Continue(())).unwrap().unwrap();
        let peak = device.allocated().peak;
        assert!(peak <= planned.total(), "{max_tokens} tokens: {peak} bytes, a step {}", planned.total());
    }
}

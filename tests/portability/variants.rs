//! Which kernels, with which `override` constants, the engine can dispatch: those of every registry example and of every node of whole
//! models, on every kind of device.

use super::translate::Resolved;
use graftling::adapter::{Adapted, Placement, UniformLora};
use graftling::architecture::Architecture;
use graftling::graph::{Call, Counts, DType, Dispatch, Graph, Operand};
use graftling::kernel::{Arithmetic, Facts, Kernel, Matrices, Needs, Tuning};
use graftling::model::graph::{Part, Purpose};
use graftling::ops::{Example, OpEntry, Random, registry};
use graftling::train::step::{LossGraph, OptimizerGraph};
use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::OnceLock;

pub const DEFAULT_LIMITS: Facts =
    Facts { cpu_driver: false, subgroup: None, int64: false, f16: false, cooperative: None, arithmetic: Arithmetic::F32 };

/// Facts on which the choice of kernels can depend, in the combinations that drivers show.
pub fn kinds_of_device() -> Vec<Facts> {
    let mut kinds = vec![DEFAULT_LIMITS];
    for cpu_driver in [false, true] {
        for subgroup in
            [None, Some((4, 4)), Some((8, 8)), Some((16, 16)), Some((32, 32)), Some((64, 64)), Some((8, 32)), Some((32, 64))]
        {
            for (int64, f16) in [(false, false), (true, false), (true, true)] {
                kinds.push(Facts { cpu_driver, subgroup, int64, f16, ..DEFAULT_LIMITS });
            }
        }
    }
    // What `--matmul` asks for.
    for cpu_driver in [false, true] {
        for subgroup in [None, Some((8, 8))] {
            kinds.push(Facts { cpu_driver, subgroup, int64: true, f16: true, arithmetic: Arithmetic::F16, ..DEFAULT_LIMITS });
        }
    }
    for matrices in Matrices::ALL {
        for subgroup in [(8, 8), (8, 32), (32, 32), (32, 64)] {
            kinds.push(Facts {
                subgroup: Some(subgroup),
                f16: matrices.takes_f16(),
                cooperative: Some(matrices),
                arithmetic: Arithmetic::Cooperative,
                ..DEFAULT_LIMITS
            });
        }
    }
    kinds
}

/// A kernel with its constants.
pub struct Variant {
    pub kernel: &'static Kernel,
    pub constants: Vec<(&'static str, f64)>,
}

impl Variant {
    /// The kernel as a backend gets it, every constant resolved, checked by naga with all capabilities.
    pub fn resolve(&self) -> Result<Resolved, String> {
        let cooperative = Some(self.kernel.needs.cooperative.unwrap_or(Matrices::ALL[0]));
        self.resolve_with(Needs { cpu_driver: true, subgroup_size: Some(8), int64: true, f16: true, cooperative })
    }

    /// The same, with no more capabilities than these needs stand for.
    pub fn resolve_with(&self, needs: Needs) -> Result<Resolved, String> {
        Resolved::new(self.kernel, &self.constants, needs)
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.kernel.name, self.constants)
    }
}

/// All variants. Each kernel of the registry also stands here with no constants but its own.
pub fn variants() -> &'static [Variant] {
    static VARIANTS: OnceLock<Vec<Variant>> = OnceLock::new();
    VARIANTS.get_or_init(|| {
        let mut found: BTreeMap<String, Variant> = BTreeMap::new();
        let mut add = |kernel: &'static Kernel, constants: Vec<(&'static str, f64)>| {
            let variant = Variant { kernel, constants };
            found.entry(variant.to_string()).or_insert(variant);
        };
        registry().into_iter().flat_map(|entry| entry.kernels).for_each(|kernel| add(kernel, vec![]));
        for facts in kinds_of_device() {
            let listening = Tuning::listening();
            let calls = calls(&facts, &listening).into_iter().chain(calls_of_long_rows(&facts, &listening, 70_000));
            calls.flat_map(|(_, dispatches)| dispatches).for_each(|dispatch| add(dispatch.kernel, dispatch.constants));
            // What measurement may choose instead.
            for class in listening.asked().into_iter().collect::<HashSet<_>>() {
                for id in class.candidates(&facts) {
                    let dispatch = class.dispatch(id, &facts);
                    add(dispatch.kernel, dispatch.constants);
                }
            }
        }
        found.into_values().collect()
    })
}

/// What each op launches on such a device, for every registry example and every node of whole models.
pub fn calls(facts: &Facts, tuning: &Tuning) -> Vec<(&'static str, Vec<Dispatch>)> {
    let mut calls = calls_of_examples(facts, tuning);
    for storage in [DType::F32, DType::BF16, DType::F16] {
        for graph in model_graphs(&small_llama(), storage, 96) {
            calls.extend(calls_of(&graph, facts, tuning, 96));
        }
    }
    for graph in model_graphs(&smollm2(), DType::BF16, 2048) {
        calls.extend(calls_of(&graph, facts, tuning, 2048));
    }
    calls
}

/// What each op launches on such a device for the registry's examples, which are small.
fn calls_of_examples(facts: &Facts, tuning: &Tuning) -> Vec<(&'static str, Vec<Dispatch>)> {
    let launch = |(name, example): &(&'static str, Example)| {
        let types: Vec<_> = example.inputs.iter().map(|(tensor, _)| *tensor).collect();
        let outputs = example.op.infer(&types).expect("an example fits its op");
        let operands = |types: &[graftling::graph::TensorType]| -> Vec<Operand> {
            types
                .iter()
                .map(|&tensor| Operand { tensor, rows: tensor.shape.rows.resolve(&example.counts), part_starts: vec![0] })
                .collect()
        };
        let call = Call { inputs: &operands(&types), outputs: &operands(&outputs), device: facts, tuning };
        (*name, example.op.launch(&call))
    };
    examples().iter().map(launch).collect()
}

/// Those of the registry, which take longer to make than to launch.
fn examples() -> &'static [(&'static str, Example)] {
    static EXAMPLES: OnceLock<Vec<(&'static str, Example)>> = OnceLock::new();
    let of = |entry: OpEntry| (entry.examples)(&mut Random(1)).into_iter().map(move |example| (entry.name, example));
    EXAMPLES.get_or_init(|| registry().into_iter().flat_map(of).collect())
}

/// Slots that the format of a weight fills.
const OF_FORMATS: [&str; 5] = ["weights", "words", "table", "heads", "scales"];

/// Dispatches of the registry's examples, and of what measurement may choose instead, that a kernel is interpreted with: by kernel and
/// constants, leaving out how weights rest, which no algorithm's use of workgroup memory depends on.
pub fn small_dispatches() -> BTreeMap<String, Vec<Dispatch>> {
    let mut found: BTreeMap<String, Vec<Dispatch>> = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut add = |dispatch: Dispatch| {
        let kernel = dispatch.kernel;
        let slots: Vec<_> = kernel.slots.iter().filter(|(slot, _)| !OF_FORMATS.contains(slot)).collect();
        let key = format!("{} {slots:?} {:?} {:?}", kernel.shader, kernel.constants, dispatch.constants);
        if !dispatch.workgroups.contains(&0) && seen.insert((key.clone(), dispatch.params.clone())) {
            found.entry(key).or_default().push(dispatch);
        }
    };
    for facts in kinds_of_device() {
        let listening = Tuning::listening();
        calls_of_examples(&facts, &listening).into_iter().flat_map(|(_, dispatches)| dispatches).for_each(&mut add);
        for class in listening.asked().into_iter().collect::<HashSet<_>>() {
            class.candidates(&facts).into_iter().for_each(|id| add(class.dispatch(id, &facts)));
        }
    }
    found
}

/// What a training step of a small model launches for this many tokens.
pub fn calls_of_long_rows(facts: &Facts, tuning: &Tuning, tokens: usize) -> Vec<(&'static str, Vec<Dispatch>)> {
    let lora = lora(&small_llama());
    let graph = LossGraph::build(&small_llama(), &|_| DType::F32, &lora, tokens).expect("the configuration is sound").model.graph;
    calls_of(&graph, facts, tuning, tokens)
}

/// What a training step of SmolLM2 launches for this many tokens, were it two layers high, with adapters on all linear layers, of which dropout drops nothing: what
/// enters layers side by side is the same.
pub fn calls_of_a_step(facts: &Facts, tokens: usize) -> Vec<(&'static str, Vec<Dispatch>)> {
    let config = smollm2();
    let graph = LossGraph::build(&config, &|_| DType::BF16, &lora_with_dropout(&config, 0.0), tokens)
        .expect("the configuration is sound")
        .model
        .graph;
    calls_of(&graph, facts, &Tuning::NONE, tokens)
}

/// What each node of a graph launches on such a device for this many tokens, all of them supervised.
pub fn calls_of(graph: &Graph, facts: &Facts, tuning: &Tuning, tokens: usize) -> Vec<(&'static str, Vec<Dispatch>)> {
    let counts = Counts { tokens, supervised: tokens };
    let operands = |ids: &[graftling::graph::ValueId]| -> Vec<Operand> {
        ids.iter()
            .map(|&id| {
                let tensor = graph[id].tensor;
                Operand { tensor, rows: tensor.shape.rows.resolve(&counts).min(tensor.shape.rows.max()), part_starts: vec![0] }
            })
            .collect()
    };
    graph
        .nodes()
        .iter()
        .map(|node| {
            let call = Call { inputs: &operands(&node.inputs), outputs: &operands(&node.outputs), device: facts, tuning };
            (node.op.name(), node.op.launch(&call))
        })
        .collect()
}

/// Training, optimizer, evaluation, reading a prompt and generating one token.
fn model_graphs(config: &Architecture, storage: DType, tokens: usize) -> Vec<Graph> {
    let (lora, storage_of) = (lora(config), |_: &str| storage);
    let model = |lora, purpose, tokens| {
        Adapted::build(config, &storage_of, lora, purpose, Part::Whole, tokens).expect("the configuration is sound").model.graph
    };
    vec![
        LossGraph::build(config, &storage_of, &lora, tokens).expect("the configuration is sound").model.graph,
        OptimizerGraph::build(&[100_000]).expect("a positive number of parameters").graph,
        model(Some(&lora), Purpose::Evaluate, tokens),
        model(Some(&lora), Purpose::Generate { cache: tokens }, tokens),
        model(Some(&lora), Purpose::Generate { cache: tokens }, 1),
    ]
}

fn lora(config: &Architecture) -> Placement {
    lora_with_dropout(config, 0.1)
}

fn lora_with_dropout(config: &Architecture, dropout: f64) -> Placement {
    let modules = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"];
    UniformLora {
        r: 8,
        scale: 2.0,
        dropout,
        target_modules: modules.map(str::to_owned).into(),
        layers: (0..config.num_hidden_layers).collect(),
    }
    .on(config)
}

fn small_llama() -> Architecture {
    llama(&[
        ("vocab_size", 67),
        ("hidden_size", 32),
        ("intermediate_size", 48),
        ("num_attention_heads", 4),
        ("num_key_value_heads", 2),
    ])
}

/// The sizes of SmolLM2-135M, two of its layers.
fn smollm2() -> Architecture {
    llama(&[
        ("vocab_size", 49_152),
        ("hidden_size", 576),
        ("intermediate_size", 1536),
        ("num_attention_heads", 9),
        ("num_key_value_heads", 3),
    ])
}

fn llama(sizes: &[(&str, usize)]) -> Architecture {
    let mut config = serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "num_hidden_layers": 2, "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0, "max_position_embeddings": 8192, "tie_word_embeddings": true, "hidden_act": "silu"
    });
    sizes.iter().for_each(|(key, size)| config[*key] = (*size).into());
    Architecture::from_json_str(&config.to_string()).expect("a sound configuration")
}

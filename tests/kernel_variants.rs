//! A measurement may choose a product's kernel among several. Most can run on any device, so each is tested on the one at hand by telling the
//! choice of kernels that the device is of another kind. (What is chosen without a measurement there, `properties` runs.)

mod common;

use common::{device, graph_of, relative_distance, run_on};
use graftling::gpu::Device;
use graftling::graph::{Call, DType, Dispatch, Operand, Origin, TensorType};
use graftling::kernel::{Class, Facts, Tuning};
use graftling::ops::{Example, Random, registry};
use graftling::plan::Tuned;
use graftling::reference;
use libtest_mimic::{Arguments, Trial};
use std::collections::HashMap;
use std::sync::Arc;

fn launch(example: &Example, facts: &Facts, tuning: &Tuning) -> Vec<Dispatch> {
    let types: Vec<TensorType> = example.inputs.iter().map(|(tensor, _)| *tensor).collect();
    let operand = |&tensor: &TensorType| Operand { tensor, rows: tensor.shape.rows.max(), part_starts: vec![0] };
    let outputs = example.op.infer(&types).unwrap();
    let (inputs, outputs): (Vec<_>, Vec<_>) = (types.iter().map(operand).collect(), outputs.iter().map(operand).collect());
    example.op.launch(&Call { inputs: &inputs, outputs: &outputs, device: facts, tuning })
}

/// The class of an example's product, where there is one.
fn class_of(example: &Example, facts: &Facts) -> Option<Class> {
    let listening = Tuning::listening();
    launch(example, facts, &listening);
    listening.asked().pop()
}

/// Forms that add along k in order, with one `fma` a step and output.
fn adds_in_order(id: &str) -> bool {
    let families = ["tiled_", "register_", "subgroup8_"];
    families.iter().any(|family| id.starts_with(family)) && !id.contains("blocks")
}

/// Every form that measurement may choose for a class is taken where the table names it, equals the reference, and equals, bit by bit, all
/// others that add in the same order.
fn check_candidates(changed: impl Fn(&mut Facts), dtypes: &[DType]) {
    let choice = std::env::var("GRAFTLING_TEST_DEVICE").ok();
    let mut device = Device::open(choice.as_deref()).unwrap();
    changed(&mut device.facts);
    let plain = device.facts.clone();
    let device = Arc::new(device);
    let entry = registry().into_iter().find(|entry| entry.name == "matmul").unwrap();
    let examples: Vec<(Example, Class)> = (entry.examples)(&mut Random(5))
        .into_iter()
        .filter(|example| dtypes.contains(&example.inputs[1].0.dtype))
        .filter_map(|example| class_of(&example, &plain).map(|class| (example, class)))
        .collect();
    let most = examples.iter().map(|(_, class)| class.candidates(&plain).len()).max().unwrap();
    let mut in_order: Vec<Option<Vec<u32>>> = vec![None; examples.len()];
    for rank in 0..most {
        let ids: Vec<Option<&'static str>> =
            examples.iter().map(|(_, class)| class.candidates(&plain).get(rank).copied()).collect();
        let table = examples.iter().zip(&ids).filter_map(|((_, class), id)| id.map(|id| (*class, id.to_string())));
        let place = Tuned { device: device.clone(), tuning: Tuning::new(table.collect::<HashMap<_, _>>()) };
        for (((example, class), id), in_order) in examples.iter().zip(&ids).zip(&mut in_order) {
            let Some(id) = id else { continue };
            let kernels = |tuning: &Tuning| {
                launch(example, &plain, tuning).into_iter().map(|one| (one.kernel.name, one.constants)).collect::<Vec<_>>()
            };
            assert_eq!(kernels(&place.tuning) != kernels(&Tuning::NONE), rank > 0, "{class}: {id} is taken");
            let (graph, leaves, outputs) = graph_of(example, Origin::Input);
            let leaves: Vec<_> = leaves.into_iter().zip(example.inputs.iter().map(|(_, matrix)| matrix.clone())).collect();
            let expected = reference::run(&graph, leaves.iter().cloned().collect(), &example.counts);
            let found = &run_on(&place, &graph, &leaves, &outputs, &example.counts)[0];
            let distance = relative_distance(found, &expected[&outputs[0]].data);
            let bound = (entry.tolerance)(example);
            assert!(distance <= bound, "{class}: {id}: {distance:e} > {bound:e}");
            if adds_in_order(id) {
                let bits: Vec<u32> = found.iter().map(|value| value.to_bits()).collect();
                assert!(*in_order.get_or_insert_with(|| bits.clone()) == bits, "{class}: {id} gives other bits");
            }
        }
    }
}

fn every_candidate_for_gpus_equals_the_reference() {
    check_candidates(|facts| *facts = Facts { cpu_driver: false, subgroup: None, ..facts.clone() }, &[DType::F32]);
}

fn every_candidate_for_subgroups_of_eight_equals_the_reference() {
    check_candidates(|facts| facts.cpu_driver = true, &[DType::F32, DType::Q4_1]);
}

/// What needs subgroups of 8 is reported as ignored where the device has none.
fn main() {
    let arguments = Arguments::from_args();
    let lacks = device().facts.subgroup != Some((8, 8)) || !device().facts.int64;
    let mut trials = Vec::new();
    let mut add = |name: &str, needs: &str, ignored: bool, test: fn()| {
        let test = move || {
            test();
            Ok(())
        };
        if ignored {
            common::not_run::record(name, needs);
        }
        trials.push(Trial::test(name, test).with_kind(needs).with_ignored_flag(ignored));
    };
    let (any, eight) = ("any device", "needs subgroups of 8 and 64-bit integers");
    add("every_candidate_for_gpus_equals_the_reference", any, false, every_candidate_for_gpus_equals_the_reference);
    let candidates = every_candidate_for_subgroups_of_eight_equals_the_reference;
    add("every_candidate_for_subgroups_of_eight_equals_the_reference", eight, lacks, candidates);
    libtest_mimic::run(&arguments, trials).exit();
}

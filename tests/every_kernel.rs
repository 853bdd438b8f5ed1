//! Every kernel of the registry, one test each: an example that launches it on some kind of device, run on the device at hand and compared
//! with the f64 reference. A kernel that needs what the device has not (subgroups of 8, f16, cooperative matrices) is reported as ignored, with
//! what it needs in its line, and never as passed. One that no example launches on any kind of device fails.
//!
//! Mesa's software driver runs the cooperative kernels from version 26 on; before, only GPUs do.

mod common;

use common::{graph_of, relative_distance, run_on};
use graftling::gpu::{Device, adapters};
use graftling::graph::{Call, Dispatch, Operand, Origin, TensorType};
use graftling::kernel::{Arithmetic, Facts, Kernel, Matrices, Needs, Tuning};
use graftling::ops::{Example, OpEntry, Random, registry};
use graftling::plan::Tuned;
use graftling::reference;
use libtest_mimic::{Arguments, Failed, Trial};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

/// How a kernel comes to run.
#[derive(Clone)]
struct Way {
    example: Example,
    bound: f64,
    facts: Facts,
    tuning: Tuning,
}

fn launch(example: &Example, facts: &Facts, tuning: &Tuning) -> Vec<Dispatch> {
    let types: Vec<TensorType> = example.inputs.iter().map(|(tensor, _)| *tensor).collect();
    let operands = |types: &[TensorType]| -> Vec<Operand> {
        let operand =
            |&tensor: &TensorType| Operand { tensor, rows: tensor.shape.rows.resolve(&example.counts), part_starts: vec![0] };
        types.iter().map(operand).collect()
    };
    let outputs = example.op.infer(&types).expect("an example fits its op");
    example.op.launch(&Call { inputs: &operands(&types), outputs: &operands(&outputs), device: facts, tuning })
}

/// Devices on which different kernels are chosen, from those that have least on: the first that launches a kernel is the way it is run.
fn kinds_of_device() -> Vec<Facts> {
    let plain = Facts { cpu_driver: false, subgroup: None, int64: false, f16: false, cooperative: None, ..Facts::default() };
    let mut kinds = Vec::new();
    for cpu_driver in [false, true] {
        for (subgroup, int64) in [(None, false), (Some((8, 8)), false), (Some((8, 8)), true), (Some((32, 32)), true)] {
            kinds.push(Facts { cpu_driver, subgroup, int64, ..plain.clone() });
        }
    }
    kinds.push(Facts { f16: true, arithmetic: Arithmetic::F16, ..plain.clone() });
    for matrices in Matrices::ALL {
        let (subgroup, f16) = (Some((32, 32)), matrices.takes_f16());
        kinds.push(Facts { subgroup, f16, cooperative: Some(matrices), arithmetic: Arithmetic::Cooperative, ..plain.clone() });
    }
    kinds
}

/// For each kernel a way to run it. Matmul has forms that only a measurement would choose: a table that names them stands for one.
fn ways() -> BTreeMap<&'static str, Way> {
    let mut ways: BTreeMap<&'static str, Way> = BTreeMap::new();
    let of = |entry: OpEntry| (entry.examples)(&mut Random(6)).into_iter().map(move |example| (entry.tolerance, example));
    let examples: Vec<_> = registry().into_iter().flat_map(of).collect();
    for facts in kinds_of_device() {
        for (tolerance, example) in &examples {
            let listening = Tuning::listening();
            let mut tables = vec![Tuning::NONE];
            launch(example, &facts, &listening);
            for class in listening.asked().into_iter().collect::<HashSet<_>>() {
                let named = |id: &str| Tuning::new(HashMap::from([(class, id.to_owned())]));
                tables.extend(class.candidates(&facts).into_iter().map(named));
                // No measurement would choose it for weights in blocks, since it adds no low-rank term, but a table may name it.
                tables.push(named("matvec_subgroup8"));
                // The rule takes it for vocabularies, which are longer than any example.
                tables.push(named("split_64x64"));
            }
            for tuning in tables {
                for dispatch in launch(example, &facts, &tuning).iter().filter(|dispatch| !dispatch.workgroups.contains(&0)) {
                    ways.entry(dispatch.kernel.name).or_insert_with(|| {
                        // In less than f32, half_precision has bounds that follow from how each kernel rounds; this one is for all.
                        let bound = tolerance(example).max(if facts.arithmetic == Arithmetic::F32 { 0.0 } else { 2e-2 });
                        Way { example: example.clone(), bound, facts: facts.clone(), tuning: tuning.clone() }
                    });
                }
            }
        }
    }
    ways
}

/// The device, opened for what the kernel computes in; what it lacks is the error.
fn device_for(kernel: &Kernel, facts: &Facts) -> Result<Device, String> {
    let choice = std::env::var("GRAFTLING_TEST_DEVICE").ok();
    let mut device = Device::open_for(choice.as_deref(), facts.arithmetic).map_err(|error| error.to_string())?;
    if let Some(matrices) = kernel.needs.cooperative {
        let adapter = adapters().into_iter().find(|adapter| adapter.get_info() == device.info);
        if adapter.is_some_and(|adapter| Matrices::offered(&adapter).contains(&matrices)) {
            device.facts.cooperative = Some(matrices);
        }
    }
    if !kernel.needs.met_by(&device.facts) {
        return Err(format!("{} has not what it needs", device.info.name));
    }
    // All that decides which kernel is chosen, but what a driver really has where the kernel needs nothing of it.
    device.facts =
        Facts { subgroup: kernel.needs.subgroup_size.map_or(facts.subgroup, |size| Some((size, size))), ..facts.clone() };
    Ok(device)
}

fn check(kernel: &Kernel, way: &Way) -> Result<(), Failed> {
    let device = Arc::new(device_for(kernel, &way.facts)?);
    let launched = launch(&way.example, &device.facts, &way.tuning);
    if launched.iter().all(|dispatch| dispatch.kernel.name != kernel.name) {
        return Err("the device at hand launches another kernel".into());
    }
    let (graph, ids, outputs) = graph_of(&way.example, Origin::Input);
    let leaves: Vec<_> = ids.into_iter().zip(way.example.inputs.iter().map(|(_, matrix)| matrix.clone())).collect();
    let expected = reference::run(&graph, leaves.iter().cloned().collect(), &way.example.counts);
    let found = run_on(&Tuned { device, tuning: way.tuning.clone() }, &graph, &leaves, &outputs, &way.example.counts);
    for (found, output) in found.iter().zip(&outputs) {
        let distance = relative_distance(found, &expected[output].data);
        if distance > way.bound {
            return Err(format!("{distance:e} > {:e} for {:?}", way.bound, way.example.op).into());
        }
    }
    Ok(())
}

/// What a kernel asks of a device, for its line in the report.
fn words(needs: Needs) -> String {
    let mut words = Vec::new();
    words.extend(needs.cpu_driver.then(|| "a driver that runs on the CPU".to_owned()));
    words.extend(needs.subgroup_size.map(|size| format!("subgroups of {size}")));
    words.extend(needs.int64.then(|| "64-bit integers".to_owned()));
    words.extend(needs.f16.then(|| "f16".to_owned()));
    words.extend(needs.cooperative.map(|matrices| format!("cooperative matrices {matrices:?}")));
    if words.is_empty() { "any device".to_owned() } else { format!("needs {}", words.join(", ")) }
}

fn main() {
    let arguments = Arguments::from_args();
    let ways = ways();
    let mut trials = Vec::new();
    for kernel in registry().into_iter().flat_map(|entry| entry.kernels) {
        let way = ways.get(kernel.name).cloned();
        // Only what the device lacks may be passed over; whatever else goes wrong is found in the test.
        let lacks = way.as_ref().is_some_and(|way| device_for(kernel, &way.facts).is_err());
        let test = move || match way {
            Some(way) => check(kernel, &way),
            None => Err("no example launches it on any kind of device".into()),
        };
        if lacks {
            common::not_run::record(kernel.name, &words(kernel.needs));
        }
        trials.push(Trial::test(kernel.name, test).with_kind(words(kernel.needs)).with_ignored_flag(lacks));
    }
    libtest_mimic::run(&arguments, trials).exit();
}

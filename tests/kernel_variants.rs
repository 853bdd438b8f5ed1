//! Matmul, attention and rms_norm have kernels for several kinds of devices. Most can run on any device, so each is tested on the one at hand by
//! telling the choice of kernels that the device is of another kind.

mod common;

use common::{device, graph_of, relative_distance, run_on};
use graftling::gpu::{Device, Facts};
use graftling::graph::Origin;
use graftling::ops::{Random, registry};
use graftling::reference;
use std::sync::Arc;

/// Every example of these ops, on a device with these facts, within the op's bound of the f64 reference and without a touched guard word.
fn check(changed: impl Fn(&mut Facts)) {
    let choice = std::env::var("GRAFTLING_TEST_DEVICE").ok();
    let mut device = Device::open(choice.as_deref()).unwrap();
    changed(&mut device.facts);
    let device = Arc::new(device);
    let has_variants = |name: &str| ["matmul", "attention", "rms_norm"].iter().any(|kind| name.starts_with(kind));
    for entry in registry().into_iter().filter(|entry| has_variants(entry.name)) {
        for (number, example) in (entry.examples)(&mut Random(4)).into_iter().enumerate() {
            let (graph, ids, outputs) = graph_of(&example, Origin::Input);
            let leaves: Vec<_> = ids.into_iter().zip(example.inputs.iter().map(|(_, matrix)| matrix.clone())).collect();
            let expected = reference::run(&graph, leaves.iter().cloned().collect(), &example.counts);
            let found = run_on(&device, &graph, &leaves, &outputs, &example.counts);
            for (found, output) in found.iter().zip(&outputs) {
                let distance = relative_distance(found, &expected[output].data);
                let bound = (entry.tolerance)(&example);
                assert!(distance <= bound, "{} example {number}: {distance:e} > {bound:e}\n{:?}", entry.name, example.op);
            }
        }
    }
}

#[test]
fn kernels_for_gpus_equal_the_reference() {
    check(|facts| *facts = Facts { cpu_driver: false, subgroup: None, ..facts.clone() });
}

#[test]
fn kernels_for_cpu_drivers_without_subgroups_equal_the_reference() {
    check(|facts| *facts = Facts { cpu_driver: true, subgroup: None, ..facts.clone() });
}

#[test]
fn kernels_for_subgroups_of_eight_equal_the_reference() {
    if device().facts.subgroup != Some((8, 8)) || !device().facts.int64 {
        eprintln!("skipped: this device has no subgroups of 8, or no 64-bit integers");
        return;
    }
    check(|facts| facts.cpu_driver = true);
}

//! Kernels that the engine chooses on other devices than this one: the device is opened as if it were such a one, and every example
//! that would run differently is compared with the reference.

use crate::common::{device, device_with, graph_of, relative_distance, run_on};
use crate::entries;
use graftling::graph::{Call, Dispatch, Operand, Origin, TensorType};
use graftling::kernel::{Facts, Tuning};
use graftling::ops::{Example, Random};
use graftling::reference;

fn launch(example: &Example, facts: &Facts) -> Vec<Dispatch> {
    let types: Vec<TensorType> = example.inputs.iter().map(|(tensor, _)| *tensor).collect();
    let operands = |types: &[TensorType]| -> Vec<Operand> {
        types
            .iter()
            .map(|&tensor| Operand { tensor, rows: tensor.shape.rows.resolve(&example.counts), part_starts: vec![0] })
            .collect()
    };
    let outputs = example.op.infer(&types).expect("an example fits its op");
    example.op.launch(&Call { inputs: &operands(&types), outputs: &operands(&outputs), device: facts, tuning: &Tuning::NONE })
}

#[test]
fn kernels_for_other_devices_equal_their_reference() {
    let own = device().facts.clone();
    let without = |facts: Facts| Facts { subgroup: None, int64: false, f16: false, ..facts };
    let kinds = [without(Facts { cpu_driver: false, ..own.clone() }), without(Facts { cpu_driver: true, ..own.clone() })];
    for facts in kinds.into_iter().filter(|facts| *facts != own) {
        let device = device_with(facts.clone());
        let mut others = 0;
        for entry in entries() {
            for (number, example) in (entry.examples)(&mut Random(20)).into_iter().enumerate() {
                let kernels = |facts| -> Vec<_> {
                    launch(&example, facts).into_iter().map(|dispatch| (dispatch.kernel.name, dispatch.constants)).collect()
                };
                if kernels(&facts) == kernels(&own) {
                    continue;
                }
                others += 1;
                let (graph, ids, outputs) = graph_of(&example, Origin::Input);
                let leaves: Vec<_> = ids.iter().copied().zip(example.inputs.iter().map(|(_, matrix)| matrix.clone())).collect();
                let expected = reference::run(&graph, leaves.iter().cloned().collect(), &example.counts);
                let found = run_on(&device, &graph, &leaves, &outputs, &example.counts);
                for (found, output) in found.iter().zip(&outputs) {
                    let distance = relative_distance(found, &expected[output].data);
                    let bound = (entry.tolerance)(&example);
                    let what = format!("{} example {number} with {:?}", entry.name, kernels(&facts));
                    assert!(distance <= bound, "{what}: {distance:e} > {bound:e}");
                }
            }
        }
        eprintln!("{others} examples run other kernels on {facts:?}");
    }
}

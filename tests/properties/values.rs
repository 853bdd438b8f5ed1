//! Values and sizes at the edge, over the registry: zeros, large and denormal numbers, and more rows than one dispatch dimension has.

use crate::common::{graph_of, relative_distance, run_on_device};
use crate::sketch::*;
use graftling::graph::{DType, Matrix, Origin, Rows, TensorType};
use graftling::kernel::Layout;
use graftling::ops::gather_rows::ScatterRows;
use graftling::ops::glu::{Activation, Glu};
use graftling::ops::matmul::Matmul;
use graftling::ops::rms_norm::{RmsNorm, RmsNormBackward};
use graftling::ops::scale::Scale;
use graftling::ops::{Example, Random, registry};
use graftling::reference;

/// Ops of which each output element depends on few inputs, so that large and small numbers side by side are a fair demand.
/// (In a long sum, 1e4 drowns 1e-3 in any f32 arithmetic.)
const ELEMENTWISE: [&str; 19] = [
    "accumulate",
    "activate",
    "activate_backward",
    "add",
    "add_bias",
    "cache_rows",
    "dropout",
    "gather_rows",
    "global_norm",
    "glu",
    "glu_backward",
    "permute_columns",
    "rms_norm",
    "rms_norm_backward",
    "rope",
    "scale",
    "scatter_rows",
    "softcap",
    "softcap_backward",
];

const EDGES: [f64; 10] = [0.0, -0.0, 1e4, -1e4, 1e-40, -1e-40, 1.0, -1.0, 88.5, -88.5];

fn with_values(example: &Example, mut value: impl FnMut() -> f64) -> Example {
    let mut example = example.clone();
    // The table of rope holds cosines and sines, and the scale of adamw's and the loss's inputs has a meaning: they stay.
    let kept = |op: &str, input: usize| matches!((op, input), ("rope", 2) | ("linear_cross_entropy", 3) | ("adamw", 4 | 5));
    let op = example.op.name();
    for (index, (tensor, matrix)) in example.inputs.iter_mut().enumerate() {
        if tensor.dtype == DType::F32 && !kept(op, index) {
            matrix.data.iter_mut().for_each(|x| *x = f64::from(value() as f32));
        }
    }
    example
}

/// WGSL lets a device take a denormal number for zero. At a kink, as that of ReLU's derivative at 0, the value there is another one:
/// either is right.
fn check(name: &str, example: &Example, bound: f64, least: f64) {
    let (graph, ids, outputs) = graph_of(example, Origin::Input);
    let leaves: Vec<_> = ids.iter().copied().zip(example.inputs.iter().map(|(_, matrix)| matrix.clone())).collect();
    let flushed = leaves.iter().map(|(id, matrix)| {
        let data = matrix.data.iter().map(|&x| if x.abs() < f64::from(f32::MIN_POSITIVE) { 0.0 } else { x });
        (*id, Matrix::new([matrix.rows, matrix.columns], data.collect()))
    });
    let expected =
        [leaves.iter().cloned().collect(), flushed.collect()].map(|leaves| reference::run(&graph, leaves, &example.counts));
    let found = run_on_device(&graph, &leaves, &outputs, &example.counts);
    for (found, output) in found.iter().zip(&outputs) {
        let [kept, flushed] = [&expected[0][output], &expected[1][output]];
        let found: Vec<f64> = found.iter().map(|&x| f64::from(x)).collect();
        let nearer = |(x, (a, b)): (&f64, (&f64, &f64))| if (x - a).abs() <= (x - b).abs() { *a } else { *b };
        let expected = found.iter().zip(kept.data.iter().zip(&flushed.data)).map(nearer).collect();
        let [found, expected] = [found, expected].map(|data| Matrix::new([kept.rows, kept.columns], data));
        let distance = distance(&found, &expected, least);
        assert!(distance <= bound, "{name}: {distance:e} > {bound:e} for {:?}", example.op);
    }
}

#[test]
fn elementwise_ops_take_zeros_large_and_denormal_numbers() {
    for entry in registry().iter().filter(|entry| ELEMENTWISE.contains(&entry.name)) {
        let mut random = Random(5);
        for example in (entry.examples)(&mut Random(4)) {
            let example = with_values(&example, || EDGES[random.below(EDGES.len())]);
            // A denormal result has few bits left, and a device may take it for zero: below 1e-30 nothing is asked.
            check(entry.name, &example, (entry.tolerance)(&example), 1e-30);
        }
    }
}

/// Zeros in, and what comes out is finite and right: no division by a norm, a sum or a difference that is zero.
#[test]
fn every_op_takes_zeros() {
    for entry in registry() {
        for example in (entry.examples)(&mut Random(4)) {
            let example = with_values(&example, || 0.0);
            check(entry.name, &example, (entry.tolerance)(&example), 1e-3);
        }
    }
}

/// A workgroup handles 64 elements or one row, and a dispatch dimension has at most 65,535 of them.
#[test]
fn more_rows_than_one_dispatch_dimension_has() {
    const WORKGROUPS: usize = 65_535;
    let f32s =
        |rows: usize, columns: usize, seed: u64| (TensorType::f32(Rows::Fixed(rows), columns), random(seed, [rows, columns]));
    let elements = WORKGROUPS * 64 + 77;
    let rows = WORKGROUPS + 7;
    let every_third: Vec<f64> = (0..rows).step_by(3).map(|row| row as f64).collect();
    let picked = every_third.len();
    let ids = (TensorType::u32(Rows::Fixed(picked), 1), Matrix::new([picked, 1], every_third));
    let examples = [
        Example::new(Scale { factor: 3.0 }, vec![f32s(elements, 1, 1)]),
        Example::new(Glu { activation: Activation::Silu }, vec![f32s(1, elements, 1), f32s(1, elements, 2)]),
        Example::new(RmsNorm::new(1e-5), vec![f32s(rows, 4, 1), f32s(1, 4, 2)]),
        Example::new(RmsNormBackward(RmsNorm::new(1e-2)), vec![f32s(rows, 4, 1), f32s(1, 4, 2), f32s(rows, 4, 3)]),
        Example::new(ScatterRows { rows: Rows::Fixed(rows) }, vec![f32s(picked, 3, 1), ids]),
        // Tiles have at least 4 rows; some have 16.
        Example::new(Matmul { layout: Layout::NT, scale: 1.0 }, vec![f32s(16 * WORKGROUPS + 5, 4, 1), f32s(4, 4, 2)]),
    ];
    for example in examples {
        check(example.op.name(), &example, 1e-5, 0.0);
    }
}

/// The distance that all of these tests measure does measure.
#[test]
fn a_wrong_value_is_far() {
    let reference = [4.0, 0.0, -8.0];
    assert_eq!(relative_distance(&[4.0, 0.0, -8.0], &reference), 0.0);
    assert_eq!(relative_distance(&[4.0, 1.0, -8.0], &reference), 0.125);
    assert!(std::panic::catch_unwind(|| relative_distance(&[f32::NAN, 0.0, -8.0], &[4.0, 0.0, -8.0])).is_err());
}

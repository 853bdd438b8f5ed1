//! A small graph with its values at hand: what the laws of single ops are written with.

use crate::common::run_on_device;
use graftling::autograd::{Root, backward};
use graftling::graph::{Counts, Graph, Matrix, Op, Origin, Rows, TensorType, ValueId};
use graftling::ops::Random;
use graftling::reference;

#[derive(Default)]
pub struct Sketch {
    pub graph: Graph,
    pub leaves: Vec<(ValueId, Matrix)>,
    pub counts: Counts,
}

impl Sketch {
    /// A leaf that can have a gradient.
    pub fn matrix(&mut self, matrix: Matrix) -> ValueId {
        self.leaf(TensorType::f32(Rows::Fixed(matrix.rows), matrix.columns), matrix)
    }

    /// A leaf that has no gradient, as a frozen weight or a table.
    pub fn frozen(&mut self, matrix: Matrix) -> ValueId {
        let tensor = TensorType::f32(Rows::Fixed(matrix.rows), matrix.columns);
        let id = self.graph.leaf(format!("leaf{}", self.leaves.len()), tensor, Origin::Weight);
        self.leaves.push((id, matrix));
        id
    }

    /// A leaf of this type, which must fit the values.
    pub fn leaf(&mut self, tensor: TensorType, matrix: Matrix) -> ValueId {
        let origin = if tensor.dtype == graftling::graph::DType::F32 { Origin::Adapter } else { Origin::Input };
        let id = self.graph.leaf(format!("leaf{}", self.leaves.len()), tensor, origin);
        self.leaves.push((id, matrix));
        id
    }

    /// A column of ids, positions or row numbers.
    pub fn ids(&mut self, ids: &[usize]) -> ValueId {
        let matrix = Matrix::new([ids.len(), 1], ids.iter().map(|&id| id as f64).collect());
        self.leaf(TensorType::u32(Rows::Fixed(ids.len()), 1), matrix)
    }

    pub fn apply(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> Vec<ValueId> {
        let name = format!("{}{}", op.name(), self.graph.nodes().len());
        self.graph.apply(op, inputs, name).unwrap_or_else(|error| panic!("{error}"))
    }

    /// The op's first output.
    pub fn one(&mut self, op: impl Op + 'static, inputs: &[ValueId]) -> ValueId {
        self.apply(op, inputs)[0]
    }

    /// Gradients of `sum(seed * output)` by each of `wrt`, which it depends on.
    pub fn gradients(&mut self, output: ValueId, seed: Matrix, wrt: &[ValueId]) -> Vec<ValueId> {
        let id = self.graph.leaf("seed", self.graph[output].tensor, Origin::Input);
        self.leaves.push((id, seed));
        let gradients = backward(&mut self.graph, Root::Seed(output, id), wrt).unwrap_or_else(|error| panic!("{error}"));
        gradients.into_iter().map(|gradient| gradient.expect("the output depends on it")).collect()
    }

    /// Values of a run on the device.
    pub fn gpu(&self, wanted: &[ValueId]) -> Vec<Matrix> {
        let values = run_on_device(&self.graph, &self.leaves, wanted, &self.counts);
        let matrices = wanted.iter().zip(values).map(|(&id, values)| {
            let shape = self.graph[id].tensor.shape.resolve(&self.counts);
            Matrix::new(shape, values.into_iter().map(f64::from).collect())
        });
        matrices.collect()
    }

    /// Values of a run in f64.
    pub fn f64(&self, wanted: &[ValueId]) -> Vec<Matrix> {
        let values = reference::run(&self.graph, self.leaves.iter().cloned().collect(), &self.counts);
        wanted.iter().map(|id| values[id].clone()).collect()
    }
}

pub fn random(seed: u64, shape: [usize; 2]) -> Matrix {
    Random(seed).matrix(shape, 1.0)
}

pub fn transposed(matrix: &Matrix) -> Matrix {
    let mut out = Matrix::zeros([matrix.columns, matrix.rows]);
    for row in 0..matrix.rows {
        for column in 0..matrix.columns {
            out.row_mut(column)[row] = matrix.row(row)[column];
        }
    }
    out
}

/// Element by element, rounded to f32 so that both executors start from the same number.
pub fn map(matrix: &Matrix, f: impl Fn(f64) -> f64) -> Matrix {
    Matrix::new([matrix.rows, matrix.columns], matrix.data.iter().map(|&x| f64::from(f(x) as f32)).collect())
}

/// `rows` of a matrix.
pub fn rows_of(matrix: &Matrix, rows: std::ops::Range<usize>) -> Matrix {
    Matrix::new([rows.len(), matrix.columns], matrix.data[rows.start * matrix.columns..rows.end * matrix.columns].to_vec())
}

/// Columns of several matrices side by side.
pub fn beside(matrices: &[&Matrix]) -> Matrix {
    let rows = matrices[0].rows;
    let data = (0..rows).flat_map(|row| matrices.iter().flat_map(move |matrix| matrix.row(row).to_vec())).collect();
    Matrix::new([rows, matrices.iter().map(|matrix| matrix.columns).sum()], data)
}

/// Largest difference, relative to the largest magnitude of `expected`, or to `least` if that is more.
pub fn distance(found: &Matrix, expected: &Matrix, least: f64) -> f64 {
    assert_eq!([found.rows, found.columns], [expected.rows, expected.columns]);
    assert!(found.data.iter().all(|value| value.is_finite()), "not finite: {found:?}");
    let scale = expected.data.iter().fold(least, |most, value| most.max(value.abs()));
    found.data.iter().zip(&expected.data).fold(0.0, |worst: f64, (a, b)| worst.max((a - b).abs())) / scale.max(f64::MIN_POSITIVE)
}

#[track_caller]
pub fn assert_close(found: &Matrix, expected: &Matrix, bound: f64) {
    let distance = distance(found, expected, 0.0);
    assert!(distance <= bound, "{distance:e} > {bound:e}\n found {found:?}\nexpected {expected:?}");
}

/// Bitwise equality of values that came from f32.
#[track_caller]
pub fn assert_same(found: &Matrix, expected: &Matrix) {
    assert_eq!([found.rows, found.columns], [expected.rows, expected.columns]);
    for (at, (a, b)) in found.data.iter().zip(&expected.data).enumerate() {
        assert!((*a as f32).to_bits() == (*b as f32).to_bits(), "element {at}: {a:e} and {b:e}");
    }
}

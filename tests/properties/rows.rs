//! Laws of the ops that work row by row, and of matmul and the loss.

use crate::cases;
use crate::common::device;
use crate::sketch::*;
use graftling::graph::{DType, Matrix, Rows, TensorType};
use graftling::kernel::Layout;
use graftling::ops::Random;
use graftling::ops::add::Add;
use graftling::ops::dropout::Dropout;
use graftling::ops::embedding::Embedding;
use graftling::ops::gather_rows::GatherRows;
use graftling::ops::glu::{Activation, Glu};
use graftling::ops::linear_cross_entropy::LinearCrossEntropy;
use graftling::ops::matmul::Matmul;
use graftling::ops::rms_norm::RmsNorm;
use graftling::ops::rope::{Rope, rope_table};
use graftling::ops::scale::Scale;
use proptest::prelude::*;

/// f32 rounding, with some room.
const ROUNDING: f64 = 1e-6;

fn matmul(layout: Layout) -> Matmul {
    Matmul { layout, scale: 1.0 }
}

/// Sizes that fast kernels take (multiples of 4) and such that they do not.
fn size(most: usize) -> impl Strategy<Value = usize> {
    prop_oneof![1..most, (1..most.div_ceil(4)).prop_map(|n| n * 4)]
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn matmul_is_linear(m in size(40), n in size(40), k in size(70), seed: u64) {
        let mut s = Sketch::default();
        let (a, b, c) = (s.matrix(random(seed, [m, k])), s.matrix(random(seed ^ 1, [n, k])), s.matrix(random(seed ^ 2, [n, k])));
        let both = s.one(Add, &[b, c]);
        let whole = s.one(matmul(Layout::NT), &[a, both]);
        let (first, second) = (s.one(matmul(Layout::NT), &[a, b]), s.one(matmul(Layout::NT), &[a, c]));
        let sum = s.one(Add, &[first, second]);
        // The same sum through the addend.
        let chained = s.one(matmul(Layout::NT), &[a, c, first]);
        let values = s.gpu(&[whole, sum, chained]);
        let bound = 4.0 * ROUNDING * (k as f64).sqrt();
        // Sums can cancel: errors are relative to what is summed, not to what is left of it.
        prop_assert!(distance(&values[0], &values[1], (k as f64).sqrt()) <= bound);
        prop_assert!(distance(&values[2], &values[1], (k as f64).sqrt()) <= bound);
    }

    #[test]
    fn matmul_by_the_identity_changes_no_bit(m in size(70), n in size(70), seed: u64) {
        let mut identity = Matrix::zeros([n, n]);
        (0..n).for_each(|i| identity.row_mut(i)[i] = 1.0);
        let mut s = Sketch::default();
        let x = random(seed, [m, n]);
        let (a, i, t) = (s.matrix(x.clone()), s.matrix(identity), s.matrix(transposed(&x)));
        let wanted = [s.one(matmul(Layout::NT), &[a, i]), s.one(matmul(Layout::NN), &[a, i]), s.one(matmul(Layout::TN), &[t, i])];
        s.gpu(&wanted).iter().for_each(|product| assert_same(product, &x));
    }

    /// Block-quantised weights hold numbers that f32 holds too, and their kernels add in the same order: how a weight rests changes no
    /// bit. Only CPU drivers promise not to contract the operations of one kernel in another way than those of the next, and one row times
    /// packed weights (generation) adds in an order of its own.
    #[test]
    fn matmul_does_not_see_how_weights_rest(m in size(40), blocks in (1usize..4, 1usize..4), seed: u64) {
        let (n, k) = (32 * blocks.0, 32 * blocks.1);
        for dtype in [DType::Q8_0, DType::Q4_1] {
            let mut s = Sketch::default();
            let (a, d) = (s.matrix(random(seed, [m, k])), s.matrix(random(seed ^ 1, [m, n])));
            let weight = Random(seed ^ 2).stored([n, k], 1.0, dtype);
            let wide = s.matrix(weight.clone());
            let packed = s.leaf(TensorType::new(Rows::Fixed(n), k, dtype), weight);
            let mut both = |layout, x| [wide, packed].map(|weight| s.one(matmul(layout), &[x, weight]));
            let wanted = [both(Layout::NT, a), both(Layout::NN, d)].concat();
            let values = s.gpu(&wanted);
            for pair in values.chunks_exact(2) {
                prop_assert!(distance(&pair[1], &pair[0], 1.0) <= 2.0 * ROUNDING * (k.max(n) as f64).sqrt());
                if device().facts.cpu_driver && m > 1 {
                    assert_same(&pair[1], &pair[0]);
                }
            }
        }
    }

    /// `a b^T` in the three layouts, and `(a b^T)^T = b a^T`.
    #[test]
    fn matmul_layouts_agree(m in size(40), n in size(40), k in size(70), seed: u64) {
        let mut s = Sketch::default();
        let (x, y) = (random(seed, [m, k]), random(seed ^ 1, [n, k]));
        let (a, b, at, bt) = (s.matrix(x.clone()), s.matrix(y.clone()), s.matrix(transposed(&x)), s.matrix(transposed(&y)));
        let wanted = [
            s.one(matmul(Layout::NT), &[a, b]),
            s.one(matmul(Layout::NN), &[a, bt]),
            s.one(matmul(Layout::TN), &[at, bt]),
            s.one(matmul(Layout::NT), &[b, a]),
        ];
        let values = s.gpu(&wanted);
        let bound = 2.0 * ROUNDING * (k as f64).sqrt();
        for other in [&values[1], &values[2], &transposed(&values[3])] {
            prop_assert!(distance(other, &values[0], (k as f64).sqrt()) <= bound);
        }
    }

    /// A constant added to all logits of a row changes neither loss nor gradient, and the gradient of a row of logits sums to 0.
    /// The constant enters as one more hidden column, whose output weight is 1 for every token of the vocabulary.
    #[test]
    fn cross_entropy_does_not_see_a_shift(rows in 1usize..150, hidden in size(24), vocabulary in 2usize..90, seed: u64, shift in prop_oneof![Just(-200.0), Just(200.0), -30.0..30.0f64]) {
        let h = random(seed, [rows, hidden]);
        let ones = map(&Matrix::zeros([vocabulary, 1]), |_| 1.0);
        let w = beside(&[&random(seed ^ 1, [vocabulary, hidden]), &ones]);
        let mut s = Sketch::default();
        let (w, weight) = (s.matrix(w), s.matrix(Matrix::new([1, 1], vec![1.0 / rows as f64]).clone()));
        let targets: Vec<usize> = (0..rows).map(|row| (seed as usize % 97 + 13 * row) % vocabulary).collect();
        let targets = s.ids(&targets);
        let loss = LinearCrossEntropy::new(true);
        let outputs: Vec<_> = [0.0, shift]
            .iter()
            .map(|&shift| {
                let shifted = s.matrix(beside(&[&h, &map(&Matrix::zeros([rows, 1]), |_| shift)]));
                s.apply(loss, &[shifted, w, targets, weight])
            })
            .collect();
        let values = s.gpu(&outputs.concat());
        let [plain, shifted] = [&values[..3], &values[3..]];
        // Logits of magnitude |shift| + 5 are rounded at 6e-8 of that.
        let bound = 2.5e-7 * (shift.abs() + 10.0);
        prop_assert!(distance(&shifted[1], &plain[1], 1.0) <= bound);
        prop_assert!(distance(&shifted[2], &plain[2], 1.0 / rows as f64) <= 4.0 * bound);
        for row in 0..rows {
            prop_assert!(plain[2].row(row)[hidden].abs() <= 2e-6 / rows as f64, "{}", plain[2].row(row)[hidden]);
        }
    }

    /// Rows that are not supervised get exactly no gradient.
    #[test]
    fn rows_that_are_not_gathered_have_no_gradient(rows in 2usize..80, columns in size(40), seed: u64) {
        let picked: Vec<usize> = (0..rows).filter(|row| (seed >> (row % 60)) & 1 == 1).collect();
        prop_assume!(!picked.is_empty());
        let mut s = Sketch::default();
        let x = s.matrix(random(seed, [rows, columns]));
        let ids = s.ids(&picked);
        let y = s.one(GatherRows, &[x, ids]);
        let d_y = random(seed ^ 1, [picked.len(), columns]);
        let d_x = s.gradients(y, d_y.clone(), &[x]);
        let d_x = &s.gpu(&d_x)[0];
        for row in 0..rows {
            match picked.iter().position(|&picked| picked == row) {
                Some(from) => prop_assert_eq!(d_x.row(row), d_y.row(from)),
                None => prop_assert!(d_x.row(row).iter().all(|&value| value == 0.0)),
            }
        }
    }

    #[test]
    fn rms_norm_does_not_see_scale(rows in 1usize..30, columns in 2usize..200, seed: u64, factor in 0.01..100.0f64) {
        let x = map(&random(seed, [rows, columns]), |x| x + 0.25);
        let mut s = Sketch::default();
        let weight = s.matrix(random(seed ^ 1, [1, columns]));
        let (x, scaled) = (s.matrix(x.clone()), s.matrix(map(&x, |x| x * factor)));
        let norm = RmsNorm::new(1e-12);
        let wanted = [s.one(norm, &[x, weight]), s.one(norm, &[scaled, weight])];
        let values = s.gpu(&wanted);
        prop_assert!(distance(&values[1], &values[0], 0.0) <= 4.0 * ROUNDING);
    }

    /// Since scale does not matter (eps -> 0), the gradient has no part along x.
    #[test]
    fn rms_norm_gradient_is_orthogonal_to_its_input(rows in 1usize..30, columns in 2usize..200, seed: u64) {
        let x = map(&random(seed, [rows, columns]), |x| x + 0.25);
        let mut s = Sketch::default();
        let weight = s.matrix(map(&Matrix::zeros([1, columns]), |_| 1.0));
        let id = s.matrix(x.clone());
        let y = s.one(RmsNorm::new(1e-12), &[id, weight]);
        let d_y = random(seed ^ 1, [rows, columns]);
        let d_x = s.gradients(y, d_y.clone(), &[id]);
        let d_x = &s.gpu(&d_x)[0];
        let norm = |row: &[f64]| row.iter().map(|x| x * x).sum::<f64>().sqrt();
        for row in 0..rows {
            let dot: f64 = x.row(row).iter().zip(d_x.row(row)).map(|(x, d)| x * d).sum();
            // d_x is a difference of terms of size |d_y| rstd, with rstd = sqrt(columns) / |x|.
            let scale = norm(d_y.row(row)) * (columns as f64).sqrt();
            prop_assert!(dot.abs() <= 1e-5 * scale, "{dot} against {scale}");
        }
    }

    #[test]
    fn rope_rotates(rows in 1usize..40, heads in 1usize..4, half in 1usize..40, seed: u64) {
        let head_dim = 2 * half;
        let frequencies: Vec<f64> = (0..half).map(|c| 100f64.powf(-(c as f64) / half as f64)).collect();
        let table = rope_table(&frequencies, 1.0, 64).into_iter().map(f64::from).collect();
        let mut s = Sketch::default();
        let values = random(seed, [rows, heads * head_dim]);
        let x = s.matrix(values.clone());
        let table = s.matrix(Matrix::new([64, head_dim], table));
        let positions: Vec<usize> = (0..rows).map(|row| (row * 7 + seed as usize % 64) % 64).collect();
        let (position, zero) = (s.ids(&positions), s.ids(&vec![0; rows]));
        let rope = Rope::new(head_dim);
        let inverse = Rope { inverse: true, ..Rope::new(head_dim) };
        let turned = s.one(rope, &[x, position, table]);
        let back = s.one(inverse, &[turned, position, table]);
        let at_zero = s.one(rope, &[x, zero, table]);
        let d_y = random(seed ^ 1, [rows, heads * head_dim]);
        let seed_id = s.matrix(d_y.clone());
        let turned_back = s.one(inverse, &[seed_id, position, table]);
        let gradient = s.gradients(turned, d_y, &[x])[0];
        let found = s.gpu(&[turned, back, at_zero, turned_back, gradient]);
        // Every pair keeps its length.
        for row in 0..rows {
            for c in (0..heads * head_dim).filter(|c| c % head_dim < half) {
                let length = |row: &[f64]| row[c].hypot(row[c + half]);
                prop_assert!((length(found[0].row(row)) - length(values.row(row))).abs() <= ROUNDING);
            }
        }
        prop_assert!(distance(&found[1], &values, 0.0) <= 2.0 * ROUNDING, "the inverse does not lead back");
        assert_same(&found[2], &values);
        assert_same(&found[4], &found[3]);
    }

    /// `<R(m) q, R(n) k>` depends on `m - n` only.
    #[test]
    fn rope_sees_relative_positions(distance in 0usize..30, offset in 0usize..30, seed: u64) {
        let head_dim = 32;
        let frequencies: Vec<f64> = (0..16).map(|c| 100f64.powf(-(c as f64) / 16.0)).collect();
        let table = rope_table(&frequencies, 1.0, 64).into_iter().map(f64::from).collect();
        let mut s = Sketch::default();
        let (q, k) = (s.matrix(random(seed, [1, head_dim])), s.matrix(random(seed ^ 1, [1, head_dim])));
        let table = s.matrix(Matrix::new([64, head_dim], table));
        let mut product = |m: usize, n: usize| {
            let rope = Rope::new(head_dim);
            let (m, n) = (s.ids(&[m]), s.ids(&[n]));
            let (q, k) = (s.one(rope, &[q, m, table]), s.one(rope, &[k, n, table]));
            s.one(matmul(Layout::NT), &[q, k])
        };
        let wanted = [product(distance, 0), product(distance + offset, offset)];
        let found = s.gpu(&wanted);
        prop_assert!((found[0].data[0] - found[1].data[0]).abs() <= 1e-5, "{found:?}");
    }

    #[test]
    fn glu_laws(rows in 1usize..20, columns in 1usize..80, seed: u64) {
        let shape = [rows, columns];
        let mut s = Sketch::default();
        let (gate, zero) = (s.matrix(map(&random(seed, shape), |x| 8.0 * x)), s.matrix(Matrix::zeros(shape)));
        let (u, v) = (s.matrix(random(seed ^ 1, shape)), s.matrix(random(seed ^ 2, shape)));
        let glu = Glu { activation: if seed % 2 == 0 { Activation::Silu } else { Activation::GeluTanh } };
        let shut = s.one(glu, &[zero, u]);
        let d_up = s.gradients(shut, random(seed ^ 3, shape), &[u])[0];
        let (sum, twice) = (s.one(Add, &[u, v]), s.one(Scale { factor: 2.0 }, &[u]));
        let [of_u, of_v, of_sum, of_twice] = [u, v, sum, twice].map(|up| s.one(glu, &[gate, up]));
        let sum_of = s.one(Add, &[of_u, of_v]);
        let twice_of = s.one(Scale { factor: 2.0 }, &[of_u]);
        let found = s.gpu(&[shut, d_up, of_sum, sum_of, of_twice, twice_of]);
        prop_assert!(found[..2].iter().all(|matrix| matrix.data.iter().all(|&x| x == 0.0)), "a shut gate lets something through");
        prop_assert!(distance(&found[2], &found[3], 1.0) <= 2.0 * ROUNDING, "not linear in up");
        assert_same(&found[4], &found[5]);
    }

    /// Equal ids get equal rows, and they are the weight's rows, in every storage type.
    #[test]
    fn embedding_looks_rows_up(rows in 1usize..60, vocabulary in 1usize..50, columns in 1usize..70, seed: u64, storage in 0usize..3) {
        let dtype = [DType::F32, DType::F16, DType::BF16][storage];
        // Eighths hold in every type.
        let weights = map(&random(seed, [vocabulary, columns]), |x| (x * 8.0).round() / 8.0);
        let ids: Vec<usize> = (0..rows).map(|row| (row * row + seed as usize % 1000) % vocabulary).collect();
        let mut s = Sketch::default();
        let (ids_value, w) = (s.ids(&ids), s.leaf(TensorType::new(Rows::Fixed(vocabulary), columns, dtype), weights.clone()));
        let y = s.one(Embedding, &[ids_value, w]);
        let y = &s.gpu(&[y])[0];
        for (row, &id) in ids.iter().enumerate() {
            prop_assert_eq!(y.row(row), weights.row(id));
        }
    }

    /// The mask follows from seed, step and salt alone; the gradient passes where the value passed; the mean stays.
    #[test]
    fn dropout_laws(p in 0.05..0.95f64, seed in 0usize..1 << 30, step in 0usize..10_000, salt in 0u32..1000) {
        let shape = [100, 200];
        let ones = map(&Matrix::zeros(shape), |_| 1.0);
        let mut s = Sketch::default();
        let x = s.matrix(ones.clone());
        let mut counter = |step: usize| {
            let values = Matrix::new([1, 2], vec![seed as f64, step as f64]);
            s.leaf(TensorType::u32(Rows::Fixed(1), 2), values)
        };
        let (now, next) = (counter(step), counter(step + 1));
        let dropout = Dropout { p, salt };
        let y = s.one(dropout, &[x, now]);
        let again = s.one(dropout, &[x, now]);
        let other_step = s.one(dropout, &[x, next]);
        let other_salt = s.one(Dropout { p, salt: salt + 1 }, &[x, now]);
        let d_x = s.gradients(y, ones, &[x])[0];
        let found = s.gpu(&[y, again, other_step, other_salt, d_x]);
        assert_same(&found[1], &found[0]);
        assert_same(&found[4], &found[0]);
        prop_assert!(found[2] != found[0] && found[3] != found[0]);
        let count = found[0].data.len() as f64;
        let mean = found[0].data.iter().sum::<f64>() / count;
        // A kept element is 1 / (1 - p): the mean's standard deviation is sqrt(p / (1 - p) / n). 6 of them are allowed.
        prop_assert!((mean - 1.0).abs() <= 6.0 * (p / (1.0 - p) / count).sqrt() + ROUNDING, "mean {mean}");
        let kept = 1.0 / (1.0 - p);
        prop_assert!(found[0].data.iter().all(|&y| y == 0.0 || (y / kept - 1.0).abs() <= ROUNDING));
    }
}

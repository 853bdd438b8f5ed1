//! Laws of attention.

use crate::cases;
use crate::common::{device, not_run};
use crate::sketch::*;
use graftling::graph::{Call, Dispatch, Matrix, Op, Operand, Rows, TensorType, ValueId};
use graftling::kernel::Tuning;
use graftling::ops::attention::{Attention, AttentionBackwardKeyValue, AttentionBackwardQuery, Heads};
use graftling::plan::Executable;
use proptest::prelude::*;
use std::sync::Once;

/// Bounds of design section 9: forward, gradients.
const FORWARD: f64 = 1e-5;
const BACKWARD: f64 = 1e-4;

#[derive(Clone, Debug)]
struct Case {
    heads: Heads,
    /// Lengths of the packed segments.
    segments: Vec<usize>,
    seed: u64,
}

impl Case {
    fn rows(&self) -> usize {
        self.segments.iter().sum()
    }

    fn starts(&self) -> Vec<usize> {
        let mut starts = Vec::new();
        for &length in &self.segments {
            starts.extend(vec![starts.len(); length]);
        }
        starts
    }

    fn q(&self) -> Matrix {
        random(self.seed, [self.rows(), self.heads.heads * self.heads.head_dim])
    }

    /// Keys and values.
    fn kv(&self) -> [Matrix; 2] {
        let shape = [self.rows(), self.heads.key_value_heads * self.heads.head_dim];
        [1, 2].map(|salt| random(self.seed ^ salt, shape))
    }

    fn d_out(&self) -> Matrix {
        random(self.seed ^ 3, [self.rows(), self.heads.heads * self.heads.head_dim])
    }
}

fn case() -> impl Strategy<Value = Case> {
    let heads = (1usize..4, 1usize..4, prop_oneof![1usize..8, Just(16), Just(20), Just(24), Just(32), Just(64)]);
    let (softcap, window) = (prop_oneof![Just(None), Just(Some(0.5)), Just(Some(2.0))], prop::option::of(1usize..30));
    (heads, softcap, window, prop::collection::vec(1usize..40, 1..4), any::<u64>()).prop_map(
        |((group, key_value_heads, quarter), softcap, window, segments, seed)| {
            let heads = Heads { softcap, window, ..Heads::new(group * key_value_heads, key_value_heads, 4 * quarter) };
            Case { heads, segments, seed }
        },
    )
}

/// `out`, and the gradients by q, k and v where `d_out` is given.
fn run(heads: Heads, q: &Matrix, kv: &[Matrix; 2], starts: &[usize], d_out: Option<&Matrix>) -> Vec<Matrix> {
    run_with(heads, q, kv, starts, None, d_out)
}

/// [`run`] with a sink of each head, if there are any.
fn run_with(
    heads: Heads,
    q: &Matrix,
    [k, v]: &[Matrix; 2],
    starts: &[usize],
    sinks: Option<&[f64]>,
    d_out: Option<&Matrix>,
) -> Vec<Matrix> {
    let mut s = Sketch::default();
    let inputs = [q, k, v].map(|matrix| s.matrix(matrix.clone()));
    let position: Vec<usize> = starts.iter().enumerate().map(|(row, start)| row - start).collect();
    let (position, segment_start) = (s.ids(&position), s.ids(starts));
    let mut all = vec![inputs[0], inputs[1], inputs[2], position, segment_start];
    all.extend(sinks.map(|sinks| s.frozen(Matrix::new([1, sinks.len()], sinks.to_vec()))));
    let out = s.one(Attention(heads), &all);
    let mut wanted: Vec<ValueId> = vec![out];
    if let Some(d_out) = d_out {
        wanted.extend(s.gradients(out, d_out.clone(), &inputs));
    }
    s.gpu(&wanted)
}

proptest! {
    #![proptest_config(cases(8))]

    /// What a token is has no influence on the rows before it, down to the last bit.
    #[test]
    fn the_past_does_not_see_the_future(case in case(), at in any::<prop::sample::Index>()) {
        let (rows, t) = (case.rows(), at.index(case.rows()));
        let changed = |matrix: Matrix| {
            let mut matrix = matrix;
            matrix.row_mut(t).iter_mut().for_each(|x| *x = f64::from((5.0 - 3.0 * *x) as f32));
            matrix
        };
        let before = run(case.heads, &case.q(), &case.kv(), &case.starts(), None);
        let after = run(case.heads, &changed(case.q()), &case.kv().map(changed), &case.starts(), None);
        assert_same(&rows_of(&after[0], 0..t), &rows_of(&before[0], 0..t));
        // Nor on other segments, later ones included.
        let starts = case.starts();
        for row in (0..rows).filter(|&row| starts[row] != starts[t]) {
            prop_assert_eq!(after[0].row(row), before[0].row(row));
        }
        prop_assert!(after[0].row(t) != before[0].row(t));
    }

    /// An output's gradient reaches no later token, nor another segment: there it is exactly zero.
    #[test]
    fn the_future_gets_no_gradient(case in case(), at in any::<prop::sample::Index>()) {
        let (rows, t) = (case.rows(), at.index(case.rows()));
        let mut d_out = case.d_out();
        (0..rows).filter(|&row| row != t).for_each(|row| d_out.row_mut(row).fill(0.0));
        let starts = case.starts();
        let found = run(case.heads, &case.q(), &case.kv(), &starts, Some(&d_out));
        for row in (0..rows).filter(|&row| row > t || row < starts[t]) {
            for gradient in &found[1..] {
                prop_assert!(gradient.row(row).iter().all(|&d| d == 0.0), "row {row}: {:?}", gradient.row(row));
            }
        }
        prop_assert!(found[3].row(t).iter().any(|&d| d != 0.0));
    }

    #[test]
    fn packed_segments_equal_separate_sequences(case in case()) {
        let (q, kv, d_out) = (case.q(), case.kv(), case.d_out());
        let packed = run(case.heads, &q, &kv, &case.starts(), Some(&d_out));
        let mut first = 0;
        for &length in &case.segments {
            let rows = first..first + length;
            first += length;
            let part = |matrix: &Matrix| rows_of(matrix, rows.clone());
            let alone = run(case.heads, &part(&q), &[part(&kv[0]), part(&kv[1])], &vec![0; length], Some(&part(&d_out)));
            for (index, (packed, alone)) in packed.iter().zip(&alone).enumerate() {
                let bound = if index == 0 { FORWARD } else { BACKWARD };
                // The gradients of q and k cancel to nothing where a row sees one key, so they are measured against 1, the size of d_out.
                prop_assert!(distance(&part(packed), alone, 1.0) <= bound, "output {index} of rows {rows:?}");
            }
        }
    }

    /// A softmax over one key is 1.
    #[test]
    fn a_single_key_returns_its_value(case in case()) {
        let rows = case.rows();
        let kv = case.kv();
        let starts: Vec<usize> = (0..rows).collect();
        let found = run(case.heads, &case.q(), &kv, &starts, Some(&case.d_out()));
        let (heads, dim) = (case.heads, case.heads.head_dim);
        for row in 0..rows {
            for head in 0..heads.heads {
                let value = &kv[1].row(row)[head / heads.group() * dim..][..dim];
                let out = &found[0].row(row)[head * dim..][..dim];
                prop_assert!(out.iter().zip(value).all(|(out, value)| (out - value).abs() <= 1e-6), "{out:?} {value:?}");
            }
        }
        let largest = found[1..3].iter().flat_map(|gradient| &gradient.data).fold(0.0f64, |most, d| most.max(d.abs()));
        prop_assert!(largest <= BACKWARD, "scores of a single key have gradient {largest}");
    }

    /// Grouped heads are full heads whose keys and values repeat; the gradient of a shared head is the sum over its copies.
    #[test]
    fn grouped_heads_equal_repeated_ones(case in case()) {
        let (heads, dim, group) = (case.heads, case.heads.head_dim, case.heads.group());
        let repeat = |matrix: &Matrix| {
            let mut wide = Matrix::zeros([matrix.rows, heads.heads * dim]);
            for row in 0..matrix.rows {
                for head in 0..heads.heads {
                    wide.row_mut(row)[head * dim..][..dim].copy_from_slice(&matrix.row(row)[head / group * dim..][..dim]);
                }
            }
            wide
        };
        let fold = |wide: &Matrix| {
            let mut narrow = Matrix::zeros([wide.rows, heads.key_value_heads * dim]);
            for row in 0..wide.rows {
                for (column, value) in wide.row(row).iter().enumerate() {
                    narrow.row_mut(row)[column / dim / group * dim + column % dim] += value;
                }
            }
            narrow
        };
        let (q, kv, d_out) = (case.q(), case.kv(), case.d_out());
        let grouped = run(heads, &q, &kv, &case.starts(), Some(&d_out));
        let full = Heads { key_value_heads: heads.heads, ..heads };
        let repeated = run(full, &q, &kv.each_ref().map(repeat), &case.starts(), Some(&d_out));
        prop_assert!(distance(&grouped[0], &repeated[0], 0.0) <= FORWARD);
        prop_assert!(distance(&grouped[1], &repeated[1], 1.0) <= BACKWARD);
        prop_assert!(distance(&grouped[2], &fold(&repeated[2]), 1.0) <= BACKWARD);
        prop_assert!(distance(&grouped[3], &fold(&repeated[3]), 1.0) <= BACKWARD);
    }

    /// A window as long as the longest segment shows every row all that it would see without one: no bit differs.
    #[test]
    fn a_window_as_long_as_the_row_changes_no_bit(case in case(), more in 0usize..3) {
        let longest = case.segments.iter().copied().max().unwrap_or(0);
        let runs = [None, Some(longest + more)].map(|window| {
            run(Heads { window, ..case.heads }, &case.q(), &case.kv(), &case.starts(), Some(&case.d_out()))
        });
        for (without, within) in runs[0].iter().zip(&runs[1]) {
            assert_same(within, without);
        }
    }

    /// What a key is has no influence on rows whose windows begin after it, and an output's gradient does not reach the keys before its
    /// row's window: down to the last bit, and exactly zero.
    #[test]
    fn a_window_hides_what_lies_before_it(case in case(), window in 1usize..12, at in any::<prop::sample::Index>()) {
        let (rows, t) = (case.rows(), at.index(case.rows()));
        let heads = Heads { window: Some(window), ..case.heads };
        let changed = |matrix: Matrix| {
            let mut matrix = matrix;
            matrix.row_mut(t).iter_mut().for_each(|x| *x = f64::from((5.0 - 3.0 * *x) as f32));
            matrix
        };
        let before = run(heads, &case.q(), &case.kv(), &case.starts(), None);
        let after = run(heads, &case.q(), &case.kv().map(changed), &case.starts(), None);
        let hidden = (t + window).min(rows)..rows;
        assert_same(&rows_of(&after[0], hidden.clone()), &rows_of(&before[0], hidden));
        prop_assert!(after[0].row(t) != before[0].row(t));
        let mut d_out = case.d_out();
        (0..rows).filter(|&row| row != t).for_each(|row| d_out.row_mut(row).fill(0.0));
        let found = run(heads, &case.q(), &case.kv(), &case.starts(), Some(&d_out));
        for row in 0..(t + 1).saturating_sub(window) {
            for gradient in &found[2..] {
                prop_assert!(gradient.row(row).iter().all(|&d| d == 0.0), "row {row}: {:?}", gradient.row(row));
            }
        }
    }

    /// A sink of 0 is a key of zeros before the segment, whose value is zeros, forward and backward; one far below all scores changes no bit.
    #[test]
    fn a_sink_is_a_key_without_a_value(case in case()) {
        let heads = Heads { window: None, ..case.heads };
        let (q, kv, d_out, starts) = (case.q(), case.kv(), case.d_out(), case.starts());
        // Every segment with a row of zeros before it, and where its rows are then.
        let ends = |row: usize| starts.get(row) != starts.get(row.wrapping_sub(1));
        let place: Vec<usize> = (0..case.rows()).map(|row| row + (0..=row).filter(|&row| ends(row)).count()).collect();
        let spread = |matrix: &Matrix| {
            let mut out = Matrix::zeros([case.rows() + case.segments.len(), matrix.columns]);
            place.iter().enumerate().for_each(|(row, &at)| out.row_mut(at).copy_from_slice(matrix.row(row)));
            out
        };
        let mut more = Vec::new();
        for &length in &case.segments {
            more.extend(vec![more.len(); length + 1]);
        }
        let longer = run(heads, &spread(&q), &kv.each_ref().map(spread), &more, Some(&spread(&d_out)));
        let sunk = |sink: f64| run_with(heads, &q, &kv, &starts, Some(&vec![sink; heads.heads]), Some(&d_out));
        for (index, (found, longer)) in sunk(0.0).iter().zip(&longer).enumerate() {
            let rows: Vec<f64> = place.iter().flat_map(|&at| longer.row(at).to_vec()).collect();
            let bound = if index == 0 { FORWARD } else { BACKWARD };
            prop_assert!(distance(found, &Matrix::new([found.rows, found.columns], rows), 1.0) <= bound, "output {index}");
        }
        let without = run(heads, &q, &kv, &starts, Some(&d_out));
        for (found, without) in sunk(-200.0).iter().zip(&without) {
            assert_same(found, without);
        }
    }

    /// A constant added to all scores of a row changes nothing, however large: a softmax that does not subtract its largest score
    /// overflows, or divides by zero. The constant enters as more columns of a head, the same for all keys.
    #[test]
    fn the_softmax_does_not_see_a_shift(case in case(), shift in prop_oneof![Just(-200.0), Just(200.0), -30.0..30.0f64]) {
        let heads = Heads { softcap: None, ..case.heads };
        prop_assume!(heads.head_dim + 8 <= Heads::MAX_DIM);
        // One of the two has a multiple of 8, for which there are kernels of their own.
        for more in [4, 8] {
            let wide = Heads { head_dim: heads.head_dim + more, ..heads };
            // Not by the shift: gradients miss the last columns of some scores there, of heads of 68 columns with segments of 32 and 5 rows and
            // of 84 with 32 and 13, where the walk over the rows ends at a segment that began within a block. Mesa 25 is right, and no model
            // that is read has such heads.
            if wide.head_dim > 64 && !wide.head_dim.is_multiple_of(8) && device().info.driver_info.contains("Mesa 22.") {
                static SAID: Once = Once::new();
                SAID.call_once(|| not_run::not_run("Mesa 22 has wrong gradients of heads of 68 columns and more that are no multiple of 8"));
                continue;
            }
            let widened = |matrix: &Matrix, value: f64| {
                let count = matrix.columns / heads.head_dim;
                let mut out = Matrix::zeros([matrix.rows, count * wide.head_dim]);
                for row in 0..matrix.rows {
                    for head in 0..count {
                        let part = &mut out.row_mut(row)[head * wide.head_dim..][..wide.head_dim];
                        part[..heads.head_dim].copy_from_slice(&matrix.row(row)[head * heads.head_dim..][..heads.head_dim]);
                        part[heads.head_dim] = value;
                    }
                }
                out
            };
            let (q, [k, v], d_out) = (case.q(), case.kv(), case.d_out());
            let [plain, shifted] = [0.0, shift / heads.scale].map(|shift| {
                let kv = [widened(&k, 1.0), widened(&v, 0.0)];
                run(wide, &widened(&q, f64::from(shift as f32)), &kv, &case.starts(), Some(&widened(&d_out, 0.0)))
            });
            // Scores of magnitude |shift| + 2 are rounded at 6e-8 of that a few times, and so are the weights.
            let bound = 1e-6 * (shift.abs() + 10.0);
            for (index, (plain, shifted)) in plain.iter().zip(&shifted).enumerate() {
                // The gradient by k in the added columns is that of the shift itself, times q's.
                let columns = |matrix: &Matrix| {
                    let data = matrix.data.chunks(wide.head_dim).flat_map(|part| part[..heads.head_dim].to_vec()).collect();
                    Matrix::new([matrix.rows, matrix.columns / wide.head_dim * heads.head_dim], data)
                };
                let distance = distance(&columns(shifted), &columns(plain), 1.0);
                prop_assert!(distance <= bound, "output {index}, {more} columns wider: {distance:e} > {bound:e}");
            }
        }
    }
}

/// Keys outside the window are not visited, in no pass: a row of 2,048 tokens with a window of 64 has a 17th of the work, and each pass
/// takes at most a quarter of the time, which leaves room for the weather.
#[test]
fn a_window_costs_its_own_length() {
    let (rows, window) = (2048, 64);
    let full = Heads::new(2, 1, 32);
    let starts = vec![0; rows];
    let case = Case { heads: full, segments: vec![rows], seed: 3 };
    let mut s = Sketch::default();
    let [k, v] = case.kv().map(|matrix| s.matrix(matrix));
    let (q, d_out) = (s.matrix(case.q()), s.matrix(case.d_out()));
    let (position, segment_start) = (s.ids(&(0..rows).collect::<Vec<_>>()), s.ids(&starts));
    let lse = s.matrix(map(&Matrix::zeros([rows, 2]), |_| 5.0));
    let statistics = s.matrix(map(&Matrix::zeros([rows, 4]), |_| 5.0));
    let fixed = |seconds: &mut dyn FnMut() -> f64| (0..4).map(|_| seconds()).fold(f64::MAX, f64::min);
    let seconds = |heads: Heads, pass: usize| {
        let mut s = Sketch { graph: s.graph.clone(), leaves: s.leaves.clone(), counts: s.counts };
        let out = match pass {
            0 => s.one(Attention(heads), &[q, k, v, position, segment_start]),
            1 => s.one(AttentionBackwardQuery(heads), &[q, k, v, d_out, lse, d_out, segment_start]),
            _ => s.one(AttentionBackwardKeyValue(heads), &[q, k, v, statistics, d_out, segment_start]),
        };
        let pinned = s.leaves.iter().map(|(id, matrix)| {
            let slice = device().allocate("leaf", matrix.data.len() * 4).unwrap();
            let tensor = s.graph[*id].tensor;
            device().write(&slice, &matrix.encoded(tensor.dtype, 0..matrix.rows));
            (*id, slice.into())
        });
        let mut executable = Executable::new(device(), s.graph.clone(), &[out], pinned.collect()).unwrap();
        fixed(&mut || {
            let start = std::time::Instant::now();
            executable.repeat(&s.counts, 3).unwrap();
            executable.read(out, 1).unwrap();
            start.elapsed().as_secs_f64()
        })
    };
    for (pass, name) in ["forward", "backward, query", "backward, key and value"].into_iter().enumerate() {
        let (whole, within) = (seconds(full, pass), seconds(Heads { window: Some(window), ..full }, pass));
        eprintln!("{name}: {whole:.4} s, with a window {within:.4} s");
        assert!(within <= whole / 4.0, "{name}: {whole} s, with a window {within} s");
    }
}

/// Half a million pairs of rows of many heads are more than one dispatch may do; of few heads they are not. Which dispatch a head is in
/// changes no bit of it.
#[test]
fn a_head_does_not_see_how_many_dispatches_there_are() {
    let rows = 1024;
    let [all, few] = [32, 8].map(|heads| Heads::new(heads, heads / 4, 64));
    let case = Case { heads: all, segments: vec![rows], seed: 5 };
    let starts = case.starts();
    let (q, kv, d_out) = (case.q(), case.kv(), case.d_out());
    let dispatches = |heads: Heads| launches(heads, rows, rows).iter().map(Vec::len).collect::<Vec<_>>();
    let (many, one) = if tiles() { (4, 2) } else { (3, 1) };
    assert_eq!((dispatches(all), dispatches(few)), (vec![2, 1 + 2, many], vec![1, 1 + 1, one]));
    let together = run(all, &q, &kv, &starts, Some(&d_out));
    for part in [0, 3] {
        let columns = |matrix: &Matrix| {
            let width = matrix.columns / 4;
            let data = (0..rows).flat_map(|row| matrix.row(row)[part * width..][..width].to_vec()).collect();
            Matrix::new([rows, width], data)
        };
        let alone = run(few, &columns(&q), &kv.each_ref().map(columns), &starts, Some(&columns(&d_out)));
        for (alone, together) in alone.iter().zip(&together) {
            assert_same(alone, &columns(together));
        }
    }
}

/// A run of fewer rows has the same dispatches, some of them empty, and together they do each block once.
#[test]
fn every_block_is_in_one_dispatch() {
    let heads = Heads::new(24, 8, 128);
    let most = launches(heads, 4096, 4096);
    assert!(most.iter().all(|list| list.len() > 20), "52 billion operations a product and more");
    for rows in [1, 37, 2048, 4096] {
        let whole = launches(heads, rows, rows.min(128));
        for ((found, most), whole) in launches(heads, rows, 4096).iter().zip(&most).zip(whole) {
            let blocks = |list: &[Dispatch]| list.iter().map(|dispatch| dispatch.workgroups.iter().product::<u32>()).sum::<u32>();
            assert_eq!((found.len(), blocks(found)), (most.len(), blocks(&whole)), "{rows} rows");
        }
    }
}

/// Has this device the kernels with tiles in workgroup memory, of which d_k and d_v are two?
fn tiles() -> bool {
    launches(Heads::new(1, 1, 64), 1, 1)[2].len() == 2
}

/// What the three ops dispatch.
fn launches(heads: Heads, rows: usize, most_rows: usize) -> [Vec<Dispatch>; 3] {
    let operand = |tensor| Operand { tensor, rows, part_starts: vec![0] };
    let of_rows = |columns| operand(TensorType::f32(Rows::Tokens(most_rows), columns));
    let inputs: Vec<Operand> = [heads.heads, heads.key_value_heads].map(|heads_of| of_rows(heads_of * heads.head_dim)).to_vec();
    let ops: [&dyn Op; 3] = [&Attention(heads), &AttentionBackwardQuery(heads), &AttentionBackwardKeyValue(heads)];
    let device = device();
    ops.map(|op| op.launch(&Call { inputs: &inputs, outputs: &[], device: &device.facts, tuning: &Tuning::NONE }))
}

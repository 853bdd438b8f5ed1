//! `attention`: causal grouped-query attention over packed rows, blockwise: no matrix of all scores exists, forward or backward
//! (Dao et al. 2022, arXiv 2205.14135; grouped queries: Ainslie et al. 2023, arXiv 2305.13245).
//!
//! The last key that row `i` sees, its own, is `segment_start[i] + position[i]`; the first one is `segment_start[i]`, or, where a sliding
//! window is shorter, the first of the last `window` keys. For each query head `h`, whose keys and values are those of head
//! `h / (heads / key_value_heads)`:
//!
//! `s_ij = cap(scale q_i . k_j)`, `lse_i = log sum_j exp(s_ij)`, `p_ij = exp(s_ij - lse_i)`, `out_i = sum_j p_ij v_j`
//!
//! `cap(x)` is `x`, or with a soft cap `c` (Gemma 2) `c tanh(x / c)`. Keys before a window, and rows whose windows begin after a key, are
//! not visited, in no pass: the work is `rows * window`.
//!
//! | input | shape | |
//! |---|---|---|
//! | q | `[rows, heads * head_dim]` f32 | |
//! | k | `[keys, key_value_heads * head_dim]` f32 | |
//! | v | as k | |
//! | position | `[rows, 1]` u32 | within the row's segment |
//! | segment_start | `[rows, 1]` u32 | key at which the row's segment begins |
//! | sinks | `[1, heads]` f32, or none | of each query head a score that every row has besides |
//!
//! | output | shape | |
//! |---|---|---|
//! | out | as q | |
//! | lse | `[rows, heads]` f32 | natural log; all that the backward pass needs of the scores |
//!
//! Rows are in order: from one to the next, neither the first nor the last key that a row sees falls. In training, key `i` is row
//! `i` and the last key that a row sees is its own. In generation the keys are a cache of fixed length, and the rows are the new
//! tokens.
//!
//! With a sink `z` (Xiao et al. 2023, arXiv 2309.17453, as gpt-oss has it), a row's softmax has `exp(z)` in its denominator besides, and no
//! value for it: `lse_i = log(exp(z) + sum_j exp(s_ij))`, and all else as above, the weights of a row adding up to less than 1.
//!
//! **Gradient** (rows = keys). `d_v_j = sum_i p_ij d_out_i`. With `d_p_ij = d_out_i . v_j`, the softmax gives
//! `d_s_ij = p_ij (d_p_ij - delta_i)`, where `delta_i = sum_j p_ij d_p_ij = d_out_i . out_i`. With the slope of the cap,
//! `cap'_ij = 1 - (s_ij / c)^2` (or 1), `d_q_i = scale sum_j d_s_ij cap'_ij k_j` and `d_k_j = scale sum_i d_s_ij cap'_ij q_i`. Sums over `i` run over the rows that see `j` and over the query heads that share it. With a sink they
//! are the same: its value is 0, so `delta_i`, which is a sum over all that the softmax weighs, is still `d_out_i . out_i`. Sinks are frozen.

mod backward;
mod examples;
mod sinks;

pub use backward::{
    AttentionBackwardKeyValue, AttentionBackwardQuery, KEY_VALUE, KEY_VALUE_SUBGROUP8, QUERY, QUERY_SUBGROUP8, STATISTICS,
};
pub(super) use examples::{backward_key_value_entry, backward_query_entry, entry};

use super::{expect, softcap, spread};
use crate::graph::{Bind, Call, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::{Facts, Kernel, Needs, ParamField};
use crate::kernel_params;

/// Shape of the heads, and which keys count how much; the same in all three ops.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Heads {
    /// Query heads.
    pub heads: usize,
    /// Divides `heads`; fewer is grouped-query attention.
    pub key_value_heads: usize,
    /// Columns of a head: a multiple of 4, at most [`Heads::MAX_DIM`].
    pub head_dim: usize,
    /// What scores are multiplied by, `head_dim^(-1/2)` in Llama.
    pub scale: f64,
    /// The bound that scores are bent towards, above 0.
    pub softcap: Option<f64>,
    /// Keys that a row sees at the most, with its own, which is the last: at least 1.
    pub window: Option<usize>,
}

/// Forward.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Attention(pub Heads);

/// A kernel for heads of a size on a device, and how many rows of theirs its workgroups own: query vectors, or keys.
struct Chosen {
    kernel: &'static Kernel,
    constants: Vec<(&'static str, f64)>,
    own_rows: usize,
}

impl Heads {
    /// Largest `head_dim` of which the kernels have workgroups, of 256 invocations.
    pub const MAX_DIM: usize = 256;

    /// Heads that see all of the past, with `head_dim^(-1/2)` as scale and no soft cap.
    pub fn new(heads: usize, key_value_heads: usize, head_dim: usize) -> Self {
        Self { heads, key_value_heads, head_dim, scale: (head_dim as f64).sqrt().recip(), softcap: None, window: None }
    }

    /// Query heads that share a key/value head.
    pub fn group(&self) -> usize {
        self.heads / self.key_value_heads
    }

    fn q_columns(&self) -> usize {
        self.heads * self.head_dim
    }

    /// Checks itself, and q, k and v: the first three inputs of all three ops.
    fn check(&self, op: &'static str, inputs: &[TensorType]) -> Result<(), ShapeError> {
        if self.key_value_heads == 0 || !self.heads.is_multiple_of(self.key_value_heads) || self.heads == 0 {
            let expected = format!("a multiple of {} key/value heads", self.key_value_heads);
            return Err(ShapeError::new(op, "heads", self.heads, expected));
        }
        if self.head_dim == 0 || self.head_dim > Self::MAX_DIM || !self.head_dim.is_multiple_of(4) {
            let expected = format!("a multiple of 4, at most {}", Self::MAX_DIM);
            return Err(ShapeError::new(op, "head_dim", self.head_dim, expected));
        }
        if self.window == Some(0) {
            return Err(ShapeError::new(op, "window", 0, "at least 1"));
        }
        softcap::check(op, self.softcap)?;
        let [q, k, v] = [inputs[0], inputs[1], inputs[2]];
        expect::same(op, "q", q, TensorType::f32(q.shape.rows, self.q_columns()))?;
        expect::same(op, "k", k, TensorType::f32(k.shape.rows, self.key_value_heads * self.head_dim))?;
        expect::same(op, "v", v, k)
    }

    /// The override constant of every kernel of this family.
    fn size_constant(&self) -> (&'static str, f64) {
        ("HEAD_VEC4", (self.head_dim / 4) as f64)
    }

    /// The override constants of the kernels that compute scores.
    fn constants(&self) -> Vec<(&'static str, f64)> {
        let softcap = self.softcap.map(|cap| softcap::constant(Some(cap)));
        std::iter::once(self.size_constant()).chain(softcap).collect()
    }

    /// The window as the kernels know it.
    fn window_parameter(&self) -> u32 {
        self.window.map_or(u32::MAX, |window| window.try_into().unwrap_or(u32::MAX))
    }

    /// The kernel for such a device, by way of workgroup memory or in subgroups of 8, for at most so many rows that its workgroups own.
    fn chosen(&self, facts: &Facts, tiles: &'static Kernel, subgroup8: &'static Kernel, rows: usize) -> Chosen {
        let constants = self.constants();
        // The kernels for subgroups of 8 load 8 columns at a time, and hold 8 rows of up to 256 columns or 16 of up to 64.
        if Needs::SUBGROUP8.met_by(facts) && self.head_dim.is_multiple_of(8) {
            let own_rows = if self.head_dim > 64 || rows <= 8 { 8 } else { 16 };
            let constants = [vec![("ROWS", own_rows as f64)], constants].concat();
            return Chosen { kernel: subgroup8, constants, own_rows };
        }
        let lanes = ("LANES", self.head_dim.div_ceil(8).max(8) as f64);
        Chosen { kernel: tiles, constants: [vec![lanes], constants].concat(), own_rows: 32 }
    }

    /// The keys that a row sees whose own key is `own`.
    fn keys(&self, segment_start: usize, own: usize) -> std::ops::RangeInclusive<usize> {
        segment_start.max((own + 1).saturating_sub(self.window.unwrap_or(usize::MAX)))..=own
    }

    fn score(&self, q: &[f64], k: &[f64]) -> f64 {
        softcap::capped(self.scale * dot(q, k), self.softcap)
    }

    /// The part of a q-like (`group` 1) or k-like row that query head `head` works with.
    fn of_head<'a>(&self, matrix: &'a Matrix, row: usize, head: usize, group: usize) -> &'a [f64] {
        let start = head / group * self.head_dim;
        &matrix.row(row)[start..start + self.head_dim]
    }

    /// What a head's rows read: `p_ij` for the keys `0 ..= i` of one sequence, row by row, from rotated q `[rows, heads * head_dim]` and k, and
    /// the kernel's own lse `[rows, heads]`. Keys before a window have 0.
    pub fn pattern(&self, q: &Matrix, k: &Matrix, lse: &Matrix, head: usize) -> Vec<Vec<f64>> {
        let row = |i: usize| {
            let (seen, q_i) = (self.keys(0, i), self.of_head(q, i, head, 1));
            let p = |j: usize| (self.score(q_i, self.of_head(k, j, head, self.group())) - lse.row(i)[head]).exp();
            (0..=i).map(|j| if seen.contains(&j) { p(j) } else { 0.0 }).collect()
        };
        (0..q.rows).map(row).collect()
    }
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Multiply-adds over head columns count two each; `products` of them are done a (row, key, head). Half of the square is visible, or what
/// the window shows of it.
fn flops_of(heads: &Heads, rows: usize, keys: usize, products: usize) -> u64 {
    let window = heads.window.unwrap_or(keys).min(keys);
    let pairs = if rows == keys { window * (window + 1) / 2 + (rows - window) * window } else { rows * window };
    2 * (pairs * heads.q_columns() * products) as u64
}

/// Operations that one dispatch does, unless blocks of late rows, which see more keys than the mean, make it twice as many. A GPU of a
/// laptop does them in some ten milliseconds; a system's watchdog ends what takes two seconds, and cannot be told how far it is.
const OPERATIONS_OF_A_DISPATCH: u64 = 4_000_000_000;

/// Blocks, one a workgroup, that a dispatch does.
#[derive(Clone, Copy)]
struct Part {
    first: u32,
    blocks: usize,
}

/// Shares `blocks` out to dispatches. How many there are follows from the most rows that there can be, since it may not change with rows.
fn parts(heads: &Heads, call: &Call, blocks: usize, products: usize) -> impl Iterator<Item = Part> {
    let [rows, keys] = [0, 1].map(|input| call.inputs[input].tensor.shape.rows.max());
    let count = flops_of(heads, rows, keys, products).div_ceil(OPERATIONS_OF_A_DISPATCH).max(1) as usize;
    (0..count).map(move |part| {
        let [first, end] = [part, part + 1].map(|part| (part * blocks) / count);
        Part { first: first as u32, blocks: end - first }
    })
}

impl Op for Attention {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        if inputs.len() != 6 {
            expect::count("attention", inputs, 5)?;
        }
        self.0.check("attention", inputs)?;
        let q = inputs[0];
        if let Some(&sinks) = inputs.get(5) {
            expect::same("attention", "sinks", sinks, TensorType::f32(Rows::Fixed(1), self.0.heads))?;
        }
        expect::same("attention", "position", inputs[3], TensorType::u32(q.shape.rows, 1))?;
        expect::same("attention", "segment_start", inputs[4], TensorType::u32(q.shape.rows, 1))?;
        Ok(vec![q, TensorType::f32(q.shape.rows, self.0.heads)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [q, k, v, position, segment_start, sinks @ ..] = inputs else { unreachable!("checked by infer") };
        let (heads, group) = (&self.0, self.0.group());
        let (mut out, mut lse) = (Matrix::zeros(outputs[0]), Matrix::zeros(outputs[1]));
        for i in 0..q.rows {
            let first = segment_start.index(i, 0);
            let keys = heads.keys(first, first + position.index(i, 0));
            for h in 0..heads.heads {
                let q_i = heads.of_head(q, i, h, 1);
                let scores: Vec<f64> = keys.clone().map(|j| heads.score(q_i, heads.of_head(k, j, h, group))).collect();
                let weighed = || scores.iter().copied().chain(sinks.first().map(|sinks| sinks.data[h]));
                let largest = weighed().fold(f64::MIN, f64::max);
                lse.row_mut(i)[h] = largest + weighed().map(|s| (s - largest).exp()).sum::<f64>().ln();
                for (j, score) in keys.clone().zip(scores) {
                    let weight = (score - lse.row(i)[h]).exp();
                    for (c, v) in heads.of_head(v, j, h, group).iter().enumerate() {
                        out.row_mut(i)[h * heads.head_dim + c] += weight * v;
                    }
                }
            }
        }
        vec![out, lse]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let rows = call.inputs[0].rows;
        let params = |first_block| Params {
            rows: rows as u32,
            keys: call.inputs[1].rows as u32,
            heads: self.0.heads as u32,
            group: self.0.group() as u32,
            scale: self.0.scale as f32,
            window: self.0.window_parameter(),
            first_block,
        };
        let most_vectors = call.inputs[0].tensor.shape.rows.max() * self.0.group();
        let Chosen { kernel, constants, own_rows } = self.0.chosen(call.device, &FORWARD, &FORWARD_SUBGROUP8, most_vectors);
        let blocks = self.0.key_value_heads * (rows * self.0.group()).div_ceil(own_rows);
        let dispatch = |part: Part| Dispatch {
            kernel,
            constants: constants.clone(),
            params: params(part.first).bytes(),
            bindings: (0..5).map(Bind::Input).chain([Bind::Output(0), Bind::Output(1)]).collect(),
            workgroups: spread(part.blocks),
            work: part.blocks as f64,
        };
        let sinks = (call.inputs.len() == 6).then(|| sinks::dispatch(&self.0, call));
        parts(&self.0, call, blocks, 2).map(dispatch).chain(sinks).collect()
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        flops_of(&self.0, inputs[0][0], inputs[1][0], 2)
    }
}

impl Differentiate for Attention {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        vjp.only_first_output("attention")?;
        let Some(d_out) = vjp.d_outputs[0] else { return Ok(()) };
        if !(0..3).any(|input| vjp.wants(input)) {
            return Ok(());
        }
        let [q, k, v, _, segment_start, ..] = vjp.inputs[..] else { unreachable!("checked by infer") };
        let [out, lse] = vjp.outputs[..] else { unreachable!("attention has two outputs") };
        let name = vjp.d_name(0);
        let query = AttentionBackwardQuery(self.0);
        let [d_q, statistics] = vjp.graph.apply(query, &[q, k, v, out, lse, d_out, segment_start], name)?[..] else {
            unreachable!("attention_backward_query has two outputs")
        };
        if vjp.wants(0) {
            vjp.give(0, d_q);
        }
        if vjp.wants(1) || vjp.wants(2) {
            let name = vjp.d_name(1);
            let key_value = AttentionBackwardKeyValue(self.0);
            let gradients = vjp.graph.apply(key_value, &[q, k, v, statistics, d_out, segment_start], name)?;
            for (input, gradient) in [1, 2].into_iter().zip(gradients) {
                if vjp.wants(input) {
                    vjp.give(input, gradient);
                }
            }
        }
        Ok(())
    }
}

kernel_params!(Params { rows: u32, keys: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 });

/// One workgroup for 32 (row, query head) of a key/value head.
pub static FORWARD: Kernel = Kernel::checked("attention", Params::FIELDS);

/// In subgroups of 8, without workgroup memory.
const fn in_subgroups_of_8(name: &'static str, params: &'static [ParamField]) -> Kernel {
    Kernel { name, shader: name, slots: &[], constants: &[], params, needs: Needs::SUBGROUP8, unchecked: true }
}

/// One workgroup, of one subgroup of 8, for 8 or 16 (row, query head) of a key/value head.
pub static FORWARD_SUBGROUP8: Kernel = in_subgroups_of_8("attention_subgroup8", Params::FIELDS);

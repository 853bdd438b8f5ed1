//! `attention_backward_query` and `attention_backward_key_value`: the gradients of [`super::Attention`] where key `i` is row `i`,
//! so that the last key that row `i` sees is `i`. Formulas: the module documentation of [`super`].

use super::*;

/// Inputs `q, k, v, out, lse, d_out, segment_start`; outputs `d_q` and `statistics` `[rows, 2 * heads]`: for each query head its
/// `lse` and `delta = d_out . out`, side by side, since a kernel may bind no more than eight buffers.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AttentionBackwardQuery(pub Heads);

/// Inputs `q, k, v, statistics, d_out, segment_start`; outputs `d_k` and `d_v`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct AttentionBackwardKeyValue(pub Heads);

impl Op for AttentionBackwardQuery {
    fn name(&self) -> &'static str {
        "attention_backward_query"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        let op = "attention_backward_query";
        expect::count(op, inputs, 7)?;
        self.0.check(op, inputs)?;
        let q = inputs[0];
        expect::rows(op, "k", inputs[1], q.shape.rows)?;
        expect::same(op, "out", inputs[3], q)?;
        expect::same(op, "lse", inputs[4], TensorType::f32(q.shape.rows, self.0.heads))?;
        expect::same(op, "d_out", inputs[5], q)?;
        expect::same(op, "segment_start", inputs[6], TensorType::u32(q.shape.rows, 1))?;
        Ok(vec![q, TensorType::f32(q.shape.rows, 2 * self.0.heads)])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [q, k, v, out, lse, d_out, segment_start] = inputs else { unreachable!("checked by infer") };
        let (heads, group) = (&self.0, self.0.group());
        let (mut d_q, mut statistics) = (Matrix::zeros(outputs[0]), Matrix::zeros(outputs[1]));
        for i in 0..q.rows {
            for h in 0..heads.heads {
                let (q_i, d_out_i) = (heads.of_head(q, i, h, 1), heads.of_head(d_out, i, h, 1));
                let (lse, delta) = (lse.row(i)[h], dot(d_out_i, heads.of_head(out, i, h, 1)));
                statistics.row_mut(i)[2 * h..2 * h + 2].copy_from_slice(&[lse, delta]);
                for j in heads.keys(segment_start.index(i, 0), i) {
                    let (k_j, v_j) = (heads.of_head(k, j, h, group), heads.of_head(v, j, h, group));
                    let score = heads.score(q_i, k_j);
                    let d_score = (score - lse).exp() * (dot(d_out_i, v_j) - delta) * softcap::slope(score, heads.softcap);
                    for c in 0..heads.head_dim {
                        d_q.row_mut(i)[h * heads.head_dim + c] += heads.scale * d_score * k_j[c];
                    }
                }
            }
        }
        vec![d_q, statistics]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let vectors = call.inputs[0].rows * self.0.heads;
        let statistics = Dispatch {
            kernel: &STATISTICS,
            constants: Vec::new(),
            params: StatisticsParams { vectors: vectors as u32, head_vec4: (self.0.head_dim / 4) as u32 }.bytes(),
            bindings: vec![Bind::Input(3), Bind::Input(5), Bind::Input(4), Bind::Output(1)],
            workgroups: spread(vectors.div_ceil(64)),
            work: 0.0,
        };
        let most_vectors = call.inputs[0].tensor.shape.rows.max() * self.0.group();
        let Chosen { kernel, constants, own_rows } = self.0.chosen(call.device, &QUERY, &QUERY_SUBGROUP8, most_vectors);
        let blocks = self.0.key_value_heads * (call.inputs[0].rows * self.0.group()).div_ceil(own_rows);
        let query = |part: Part| Dispatch {
            kernel,
            constants: constants.clone(),
            params: params(&self.0, call, part).bytes(),
            bindings: vec![
                Bind::Input(0),
                Bind::Input(1),
                Bind::Input(2),
                Bind::Output(1),
                Bind::Input(5),
                Bind::Input(6),
                Bind::Output(0),
            ],
            workgroups: spread(part.blocks),
            work: part.blocks as f64,
        };
        std::iter::once(statistics).chain(parts(&self.0, call, blocks, 3).map(query)).collect()
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        flops_of(&self.0, inputs[0][0], inputs[1][0], 3)
    }
}

impl Op for AttentionBackwardKeyValue {
    fn name(&self) -> &'static str {
        "attention_backward_key_value"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        let op = "attention_backward_key_value";
        expect::count(op, inputs, 6)?;
        self.0.check(op, inputs)?;
        let q = inputs[0];
        expect::rows(op, "k", inputs[1], q.shape.rows)?;
        expect::same(op, "statistics", inputs[3], TensorType::f32(q.shape.rows, 2 * self.0.heads))?;
        expect::same(op, "d_out", inputs[4], q)?;
        expect::same(op, "segment_start", inputs[5], TensorType::u32(q.shape.rows, 1))?;
        Ok(vec![inputs[1], inputs[2]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::None("it is a gradient itself, and gradients are not differentiated again")
    }

    fn reference(&self, inputs: &[&Matrix], outputs: &[[usize; 2]]) -> Vec<Matrix> {
        let [q, k, v, statistics, d_out, segment_start] = inputs else { unreachable!("checked by infer") };
        let (heads, group) = (&self.0, self.0.group());
        let (mut d_k, mut d_v) = (Matrix::zeros(outputs[0]), Matrix::zeros(outputs[1]));
        for i in 0..q.rows {
            for h in 0..heads.heads {
                let (q_i, d_out_i) = (heads.of_head(q, i, h, 1), heads.of_head(d_out, i, h, 1));
                let (lse, delta) = (statistics.row(i)[2 * h], statistics.row(i)[2 * h + 1]);
                for j in heads.keys(segment_start.index(i, 0), i) {
                    let score = heads.score(q_i, heads.of_head(k, j, h, group));
                    let weight = (score - lse).exp();
                    let d_weight = dot(d_out_i, heads.of_head(v, j, h, group));
                    let d_score = weight * (d_weight - delta) * softcap::slope(score, heads.softcap);
                    for c in 0..heads.head_dim {
                        let column = h / group * heads.head_dim + c;
                        d_k.row_mut(j)[column] += heads.scale * d_score * q_i[c];
                        d_v.row_mut(j)[column] += weight * d_out_i[c];
                    }
                }
            }
        }
        vec![d_k, d_v]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let most_keys = call.inputs[1].tensor.shape.rows.max();
        let Chosen { kernel, constants, own_rows } = self.0.chosen(call.device, &KEY_VALUE, &KEY_VALUE_SUBGROUP8, most_keys);
        // Dispatches for both gradients, or for each its own.
        let outputs = if std::ptr::eq(kernel, &KEY_VALUE) { vec![vec![0], vec![1]] } else { vec![vec![0, 1]] };
        // Of d_k: scores, their gradients, and the sums; of d_v no gradients.
        let products = |outputs: &[usize]| match outputs {
            [0, 1] => 4,
            [0] => 3,
            _ => 2,
        };
        let blocks = self.0.key_value_heads * call.inputs[1].rows.div_ceil(own_rows);
        let dispatch = |outputs: &[usize], part: Part| Dispatch {
            kernel,
            constants: match *outputs {
                [gradient] => [constants.clone(), vec![("OF_KEY", if gradient == 0 { 1.0 } else { 0.0 })]].concat(),
                _ => constants.clone(),
            },
            params: params(&self.0, call, part).bytes(),
            workgroups: spread(part.blocks),
            work: products(outputs) as f64 * part.blocks as f64,
            bindings: (0..6).map(Bind::Input).chain(outputs.iter().copied().map(Bind::Output)).collect(),
        };
        let parts_of = |outputs: &Vec<usize>| -> Vec<Dispatch> {
            parts(&self.0, call, blocks, products(outputs)).map(|part| dispatch(outputs, part)).collect()
        };
        outputs.iter().flat_map(parts_of).collect()
    }

    fn flops(&self, inputs: &[[usize; 2]], _: &[[usize; 2]]) -> u64 {
        flops_of(&self.0, inputs[0][0], inputs[1][0], 4)
    }
}

fn params(heads: &Heads, call: &Call, part: Part) -> BackwardParams {
    BackwardParams {
        rows: call.inputs[0].rows as u32,
        heads: heads.heads as u32,
        group: heads.group() as u32,
        scale: heads.scale as f32,
        window: heads.window_parameter(),
        first_block: part.first,
    }
}

kernel_params!(StatisticsParams { vectors: u32, head_vec4: u32 });
kernel_params!(BackwardParams { rows: u32, heads: u32, group: u32, scale: f32, window: u32, first_block: u32 });

/// One invocation a (row, query head).
pub static STATISTICS: Kernel = Kernel::checked("attention_backward_statistics", StatisticsParams::FIELDS);

/// One workgroup for 32 (row, query head) of a key/value head.
pub static QUERY: Kernel = Kernel::checked("attention_backward_query", BackwardParams::FIELDS);

/// One workgroup for 32 keys of a key/value head, and one of the two gradients.
pub static KEY_VALUE: Kernel = Kernel::checked("attention_backward_key_value", BackwardParams::FIELDS);

/// One workgroup, of one subgroup of 8, for 8 or 16 (row, query head) of a key/value head.
pub static QUERY_SUBGROUP8: Kernel = in_subgroups_of_8("attention_backward_query_subgroup8", BackwardParams::FIELDS);

/// One workgroup, of one subgroup of 8, for 8 or 16 keys of a key/value head.
pub static KEY_VALUE_SUBGROUP8: Kernel = in_subgroups_of_8("attention_backward_key_value_subgroup8", BackwardParams::FIELDS);

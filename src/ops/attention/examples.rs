//! Examples of the three attention ops for the property suite.

use super::*;
use crate::graph::Counts;
use crate::ops::{Example, OpEntry, Random};

pub(in crate::ops) fn entry() -> OpEntry {
    OpEntry {
        name: "attention",
        kernels: vec![&FORWARD, &sinks::KERNEL, &FORWARD_SUBGROUP8],
        examples: |random| {
            let example = |(rows, heads)| {
                let inputs = packed(random, rows, &heads);
                dynamic(Attention(heads), rows, inputs)
            };
            let mut examples: Vec<Example> = shapes().into_iter().map(example).collect();
            examples.extend([None, Some(9)].map(|window| generation(random, window)));
            let with_sinks: Vec<Example> = examples.iter().skip(1).step_by(3).map(|example| sunk(random, example)).collect();
            examples.extend(with_sinks);
            examples
        },
        tolerance: |_| 1e-5,
    }
}

pub(in crate::ops) fn backward_query_entry() -> OpEntry {
    OpEntry {
        name: "attention_backward_query",
        kernels: vec![&STATISTICS, &QUERY, &QUERY_SUBGROUP8],
        examples: |random| {
            let example = |(rows, heads)| {
                let [q, k, v, out, lse, d_out, segment_start, _] = with_outputs(random, rows, &heads);
                dynamic(AttentionBackwardQuery(heads), rows, vec![q, k, v, out, lse, d_out, segment_start])
            };
            shapes().into_iter().map(example).collect()
        },
        tolerance: |_| 1e-4,
    }
}

pub(in crate::ops) fn backward_key_value_entry() -> OpEntry {
    OpEntry {
        name: "attention_backward_key_value",
        kernels: vec![&KEY_VALUE, &KEY_VALUE_SUBGROUP8],
        examples: |random| {
            let example = |(rows, heads)| {
                let [q, k, v, _, _, d_out, segment_start, statistics] = with_outputs(random, rows, &heads);
                dynamic(AttentionBackwardKeyValue(heads), rows, vec![q, k, v, statistics, d_out, segment_start])
            };
            shapes().into_iter().map(example).collect()
        },
        tolerance: |_| 1e-4,
    }
}

/// The same with sinks, some of which outweigh all keys and some of which are nothing beside them.
fn sunk(random: &mut Random, example: &Example) -> Example {
    let heads = example.inputs[0].0.shape.columns / example.inputs[1].0.shape.columns;
    let op: &dyn std::any::Any = &*example.op;
    let heads = op.downcast_ref::<Attention>().map_or(heads, |attention| attention.0.heads);
    let mut sinks = random.matrix([1, heads], 4.0);
    sinks.data.iter_mut().skip(1).step_by(2).for_each(|sink| *sink -= 20.0);
    let mut example = example.clone();
    example.inputs.push((TensorType::f32(Rows::Fixed(1), heads), sinks));
    example
}

type Typed = (TensorType, Matrix);

/// Rows and heads of the examples: one head, every kind of grouping, several workgroups, all head sizes in use, windows shorter than the
/// segments, soft caps in their bent range.
fn shapes() -> Vec<(usize, Heads)> {
    let plain = Heads::new;
    let window = |window, heads| Heads { window: Some(window), ..heads };
    let bent = |softcap, heads| Heads { softcap: Some(softcap), scale: 0.5, ..heads };
    vec![
        (3, plain(1, 1, 4)),
        (5, plain(3, 1, 8)),
        (17, plain(6, 3, 20)),
        (70, plain(9, 3, 64)),
        (33, plain(2, 2, 80)),
        (9, plain(4, 2, 96)),
        (12, plain(3, 1, 112)),
        (20, plain(2, 1, 128)),
        (21, plain(4, 1, 256)),
        (177, plain(2, 1, 16)),
        (90, window(7, plain(3, 1, 8))),
        (150, window(45, plain(6, 2, 64))),
        (75, window(20, plain(4, 4, 12))),
        (40, window(3, plain(2, 1, 160))),
        (61, bent(1.5, plain(4, 2, 16))),
        (50, window(11, bent(2.0, plain(3, 1, 24)))),
        (30, window(6, bent(1.0, plain(2, 1, 20)))),
    ]
}

/// An example with room for more rows than it has, as in training.
fn dynamic(op: impl Op + 'static, rows: usize, inputs: Vec<Typed>) -> Example {
    Example { counts: Counts { tokens: rows, supervised: 0 }, ..Example::new(op, inputs) }
}

fn tokens(rows: usize) -> Rows {
    Rows::Tokens(rows + 3)
}

fn u32s(rows: Rows, values: impl Iterator<Item = usize>) -> Typed {
    let data: Vec<f64> = values.map(|value| value as f64).collect();
    (TensorType::u32(rows, 1), Matrix::new([data.len(), 1], data))
}

/// q, k, v, position and segment_start of a row of segments packed end to end.
fn packed(random: &mut Random, rows: usize, heads: &Heads) -> Vec<Typed> {
    let mut starts = Vec::with_capacity(rows);
    while starts.len() < rows {
        // At least one row sees two keys: with one key, the gradients of q and k are 0, and errors have nothing to be relative to.
        let (start, length) = (starts.len(), random.between(if starts.is_empty() { 2 } else { 1 }, 2 + rows / 2));
        starts.extend(std::iter::repeat_n(start, length.min(rows - start)));
    }
    let key_columns = heads.key_value_heads * heads.head_dim;
    let mut matrix = |columns| (TensorType::f32(tokens(rows), columns), random.matrix([rows, columns], 2.0));
    vec![
        matrix(heads.q_columns()),
        matrix(key_columns),
        matrix(key_columns),
        u32s(tokens(rows), starts.iter().enumerate().map(|(row, start)| row - start)),
        u32s(tokens(rows), starts.iter().copied()),
    ]
}

/// Three new tokens, 40 old ones, a cache with room for 64.
fn generation(random: &mut Random, window: Option<usize>) -> Example {
    let (rows, keys, head_dim) = (3, 64, 8);
    let heads = Heads { scale: 0.3, window, ..Heads::new(6, 2, head_dim) };
    let mut cache = || (TensorType::f32(Rows::Fixed(keys), 2 * head_dim), random.matrix([keys, 2 * head_dim], 2.0));
    let (k, v) = (cache(), cache());
    let q = (TensorType::f32(Rows::Fixed(rows), 6 * head_dim), random.matrix([rows, 6 * head_dim], 2.0));
    let position = u32s(Rows::Fixed(rows), 40..43);
    let segment_start = u32s(Rows::Fixed(rows), [0, 0, 0].into_iter());
    Example::new(Attention(heads), vec![q, k, v, position, segment_start])
}

/// q, k, v, out, lse, d_out, segment_start, statistics: what a forward pass and the first backward op leave, rounded to f32.
fn with_outputs(random: &mut Random, rows: usize, heads: &Heads) -> [Typed; 8] {
    let round = |matrix: &Matrix| {
        let data = matrix.data.iter().map(|x| f64::from(*x as f32)).collect();
        let rounded = Matrix::new([matrix.rows, matrix.columns], data);
        (TensorType::f32(tokens(rows), matrix.columns), rounded)
    };
    let inputs = packed(random, rows, heads);
    let forward: Vec<&Matrix> = inputs.iter().map(|(_, matrix)| matrix).collect();
    let shape = [rows, heads.q_columns()];
    let outputs = Attention(*heads).reference(&forward, &[shape, [rows, heads.heads]]);
    let (out, lse) = (round(&outputs[0]), round(&outputs[1]));
    let d_out = round(&random.matrix(shape, 1.0));
    let [q, k, v, _, segment_start] = <[Typed; 5]>::try_from(inputs).unwrap_or_else(|_| unreachable!("packed makes five"));
    let known: Vec<&Matrix> = [&q, &k, &v, &out, &lse, &d_out, &segment_start].iter().map(|(_, matrix)| matrix).collect();
    let statistics = round(&AttentionBackwardQuery(*heads).reference(&known, &[shape, [rows, 2 * heads.heads]])[1]);
    [q, k, v, out, lse, d_out, segment_start, statistics]
}

//! Inputs of the wrong number, shape or type: every op refuses them with a [`ShapeError`] that says what is wrong, and never panics.

use crate::cases;
use graftling::graph::{Counts, DType, Graph, Matrix, Op, Origin, Rows, ShapeError, TensorType};
use graftling::ops::attention::{Attention, AttentionBackwardKeyValue, AttentionBackwardQuery, Heads};
use graftling::ops::dropout::Dropout;
use graftling::ops::rope::Rope;
use graftling::ops::{Example, OpEntry, Random, registry};
use proptest::prelude::*;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::OnceLock;

fn examples() -> &'static [(&'static str, Example)] {
    static EXAMPLES: OnceLock<Vec<(&'static str, Example)>> = OnceLock::new();
    EXAMPLES.get_or_init(|| {
        let of = |entry: OpEntry| (entry.examples)(&mut Random(3)).into_iter().map(move |example| (entry.name, example));
        registry().into_iter().flat_map(of).collect()
    })
}

fn types(example: &Example) -> Vec<TensorType> {
    example.inputs.iter().map(|(tensor, _)| *tensor).collect()
}

/// The verdict on these inputs; a refusal names the op and says what is wrong.
fn infer(op: &dyn Op, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
    let verdict = catch_unwind(AssertUnwindSafe(|| op.infer(inputs))).unwrap_or_else(|_| panic!("{op:?} panics on {inputs:?}"));
    if let Err(error) = &verdict {
        assert_eq!(error.op, op.name());
        assert!(!error.what.is_empty() && !error.found.is_empty() && !error.expected.is_empty(), "{error:?}");
        assert_ne!(error.found, error.expected);
    }
    verdict
}

#[test]
fn a_wrong_number_of_inputs_is_refused() {
    for (name, example) in examples() {
        let right = types(example);
        for count in (0..10).filter(|&count| count != right.len()) {
            let inputs: Vec<_> = (0..count).map(|index| right[index % right.len()]).collect();
            // Some ops take an addend or do without, or any number of parts.
            let optional = match (*name, count) {
                ("attention", 5 | 6)
                | ("matmul", 2 | 3)
                | ("matmul_low_rank", 4 | 5)
                | ("matmul_experts" | "to_experts" | "from_experts" | "matmul_together", 3 | 4)
                | ("embedding_backward", 2 | 3)
                | ("expert_shares", 2 | 4)
                | ("global_norm", 1..) => true,
                ("rms_norm_backward", 2 | 3) if format!("{:?}", example.op).contains("weight: None") => true,
                ("rms_norm_backward", 3 | 4) => !format!("{:?}", example.op).contains("weight: None"),
                _ => false,
            };
            assert!(infer(&*example.op, &inputs).is_err() || optional, "{name} takes {count} inputs");
        }
    }
}

/// Ids are never taken for numbers, nor numbers for ids.
#[test]
fn a_wrong_type_is_refused() {
    for (name, example) in examples() {
        let right = types(example);
        for at in 0..right.len() {
            let mut inputs = right.clone();
            inputs[at].dtype = if right[at].dtype == DType::U32 { DType::F32 } else { DType::U32 };
            assert!(infer(&*example.op, &inputs).is_err(), "{name} takes {} as input {at}", inputs[at]);
        }
    }
}

/// The error reaches the caller of `Graph::apply` with the node's name in it.
#[test]
fn the_error_names_the_node() {
    let mut graph = Graph::new();
    let x = graph.leaf("x", TensorType::u32(Rows::Fixed(2), 2), Origin::Input);
    let error = graph.apply(Rope::new(2), &[x, x, x], "layers.3.self_attn.q_rope").unwrap_err();
    assert_eq!((error.op, error.node.as_str()), ("rope", "layers.3.self_attn.q_rope"));
    assert_eq!(error.to_string(), "rope `layers.3.self_attn.q_rope`: x is [2, 2] u32, expected f32");
}

fn any_type() -> impl Strategy<Value = TensorType> {
    let rows = prop_oneof![
        (0usize..9).prop_map(Rows::Fixed),
        (0usize..9).prop_map(Rows::Tokens),
        (0usize..9).prop_map(Rows::Supervised),
        Just(Rows::Fixed(usize::MAX)),
    ];
    let columns = prop_oneof![0usize..9, Just(64), Just(128), Just(1 << 40), Just(usize::MAX)];
    let dtype = prop::sample::select(vec![DType::F32, DType::F32, DType::F16, DType::BF16, DType::Q8_0, DType::Q4_1, DType::U32]);
    (rows, columns, dtype).prop_map(|(rows, columns, dtype)| TensorType::new(rows, columns, dtype))
}

/// One of an example's inputs with its rows, columns or type changed.
#[derive(Clone, Debug)]
enum Change {
    Rows(usize),
    Columns(usize),
    Kind(u8),
    Type(usize),
    All(TensorType),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (1usize..70).prop_map(Change::Rows),
        (1usize..140).prop_map(Change::Columns),
        (0u8..3).prop_map(Change::Kind),
        (0usize..4).prop_map(Change::Type),
        any_type().prop_map(Change::All),
    ]
}

fn changed(tensor: TensorType, change: &Change) -> TensorType {
    let TensorType { shape, dtype } = tensor;
    let with_kind = |kind: u8, n| [Rows::Fixed(n), Rows::Tokens(n), Rows::Supervised(n)][usize::from(kind)];
    match *change {
        Change::Rows(n) => {
            let kind = match shape.rows {
                Rows::Fixed(_) => 0,
                Rows::Tokens(_) => 1,
                Rows::Supervised(_) => 2,
                // Made from rows of tokens alone; the examples have fixed ones.
                Rows::Routed { .. } => 0,
            };
            TensorType::new(with_kind(kind, n), shape.columns, dtype)
        }
        Change::Columns(n) => TensorType::new(shape.rows, n, dtype),
        Change::Kind(kind) => TensorType::new(with_kind(kind, shape.rows.max()), shape.columns, dtype),
        Change::Type(index) => TensorType { shape, dtype: [DType::F32, DType::F16, DType::BF16, DType::U32][index] },
        Change::All(tensor) => tensor,
    }
}

proptest! {
    #![proptest_config(cases(400))]

    /// What an op accepts, it can compute: the reference runs on matrices of these shapes and gives what `infer` said.
    #[test]
    fn what_is_accepted_can_be_computed(at in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), change()), 1..3)) {
        let (name, example) = at.get(examples());
        let mut inputs = types(example);
        for (which, change) in &changes {
            let which = which.index(inputs.len());
            inputs[which] = changed(inputs[which], change);
        }
        let Ok(outputs) = infer(&*example.op, &inputs) else { return Ok(()) };
        let most = inputs.iter().chain(&outputs).map(|tensor| tensor.shape.rows.max().saturating_mul(tensor.shape.columns)).max();
        let none = inputs.iter().chain(&outputs).any(|tensor| tensor.shape.rows.max() == 0 || tensor.shape.columns == 0);
        // Nothing is said of what has no element or does not fit memory. One count holds for all values of a kind.
        let same_counts = |kind: fn(Rows) -> Option<usize>| {
            let counts: Vec<usize> = inputs.iter().chain(&outputs).filter_map(|tensor| kind(tensor.shape.rows)).collect();
            counts.iter().min().copied().unwrap_or(0)
        };
        if none || most > Some(1 << 20) {
            return Ok(());
        }
        let tokens = same_counts(|rows| if let Rows::Tokens(n) = rows { Some(n) } else { None });
        let supervised = same_counts(|rows| if let Rows::Supervised(n) = rows { Some(n) } else { None });
        let counts = Counts { tokens, supervised };
        let zeros: Vec<Matrix> = inputs.iter().map(|tensor| Matrix::zeros(tensor.shape.resolve(&counts))).collect();
        let shapes: Vec<[usize; 2]> = outputs.iter().map(|tensor| tensor.shape.resolve(&counts)).collect();
        let run = || example.op.reference(&zeros.iter().collect::<Vec<_>>(), &shapes);
        let Ok(values) = catch_unwind(AssertUnwindSafe(run)) else {
            return Err(TestCaseError::fail(format!("{name} accepts {inputs:?} and cannot compute it")));
        };
        for (value, shape) in values.iter().zip(shapes) {
            prop_assert_eq!([value.rows, value.columns], shape, "{}", name);
        }
    }

    #[test]
    fn nothing_panics(at in any::<prop::sample::Index>(), inputs in prop::collection::vec(any_type(), 0..8)) {
        let _ = infer(&*at.get(examples()).1.op, &inputs);
    }

    /// Ops whose own numbers make no sense are refused like wrong inputs.
    #[test]
    fn senseless_ops_are_refused(heads in 0usize..5, key_value_heads in 0usize..5, head_dim in 0usize..280, p in prop_oneof![Just(f64::NAN), -1.0..3.0], inputs in prop::collection::vec(any_type(), 7)) {
        let heads = Heads { scale: 1.0, ..Heads::new(heads, key_value_heads, head_dim) };
        let (f32s, ids) = (TensorType::f32(Rows::Fixed(4), heads.heads * head_dim), TensorType::u32(Rows::Fixed(4), 1));
        let keys = TensorType::f32(Rows::Fixed(4), heads.key_value_heads * head_dim);
        let sensible = key_value_heads > 0 && heads.heads > 0 && heads.heads.is_multiple_of(key_value_heads)
            && head_dim > 0 && head_dim <= Heads::MAX_DIM && head_dim.is_multiple_of(4);
        prop_assert_eq!(infer(&Attention(heads), &[f32s, keys, keys, ids, ids]).is_ok(), sensible);
        let _ = infer(&AttentionBackwardQuery(heads), &inputs);
        let _ = infer(&AttentionBackwardKeyValue(heads), &inputs[..6]);
        let counter = TensorType::u32(Rows::Fixed(1), 2);
        prop_assert_eq!(infer(&Dropout { p, salt: 0 }, &[keys, counter]).is_ok(), (0.0..1.0).contains(&p));
        let table = TensorType::f32(Rows::Fixed(9), head_dim);
        let rope = infer(&Rope::new(head_dim), &[f32s, ids, table]);
        prop_assert_eq!(rope.is_ok(), head_dim > 0 && head_dim % 2 == 0);
    }
}

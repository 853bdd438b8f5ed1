//! Laws of a mixture of experts, on the device and in f64: one expert that is always chosen is a dense MLP; tokens are each by themselves,
//! whatever their order; and it does not matter how the experts' matrices are split over bindings. And of the load balancing loss of routers.

use crate::common::{as_f32, device, relative_distance, run_on_device, run_split};
use graftling::adapter::UniformLora;
use graftling::architecture::Architecture;
use graftling::graph::{Counts, DType, Graph, Matrix, Origin, Rows, TensorType, ValueId};
use graftling::kernel::Layout;
use graftling::model::graph::Part;
use graftling::ops::Random;
use graftling::ops::expert_rows::{FromExperts, ToExperts};
use graftling::ops::expert_shares::ExpertShares;
use graftling::ops::glu::{Activation, Glu};
use graftling::ops::load_balancing_loss::LoadBalancingLoss;
use graftling::ops::matmul::{Matmul, MatmulExperts};
use graftling::ops::route::Route;
use graftling::ops::sort_by_expert::SortByExpert;
use graftling::reference;
use graftling::train::step::LossGraph;

const HIDDEN: usize = 32;
const INNER: usize = 64;

/// A layer of experts on `tokens` rows, of at most `most`.
struct Layer {
    graph: Graph,
    x: ValueId,
    logits: ValueId,
    /// Gate, up and down.
    weights: [ValueId; 3],
    y: ValueId,
}

fn layer(most: usize, experts: usize, chosen: usize, dtype: DType) -> Layer {
    let mut graph = Graph::new();
    let mut leaf = |name: &str, tensor, origin| graph.leaf(name, tensor, origin);
    let x = leaf("x", TensorType::f32(Rows::Tokens(most), HIDDEN), Origin::Input);
    let logits = leaf("logits", TensorType::f32(Rows::Tokens(most), experts), Origin::Input);
    let weights = [("gate", INNER, HIDDEN), ("up", INNER, HIDDEN), ("down", HIDDEN, INNER)]
        .map(|(name, rows, columns)| leaf(name, TensorType::new(Rows::Fixed(experts * rows), columns, dtype), Origin::Weight));
    let routed = graph.apply(Route { experts: chosen, renormalised: true }, &[logits], "route").unwrap();
    let order = graph.apply(SortByExpert { experts }, &[routed[1]], "order").unwrap();
    let rows = graph.apply_one(ToExperts, &[x, order[0], order[1]], "rows").unwrap();
    let product = MatmulExperts { layout: Layout::NT, scale: 1.0 };
    let gate = graph.apply_one(product, &[rows, weights[0], order[2]], "gate").unwrap();
    let up = graph.apply_one(product, &[rows, weights[1], order[2]], "up").unwrap();
    let inner = graph.apply_one(Glu { activation: Activation::Silu }, &[gate, up], "glu").unwrap();
    let outputs = graph.apply_one(product, &[inner, weights[2], order[2]], "down").unwrap();
    let y = graph.apply_one(FromExperts, &[outputs, order[0], order[1], routed[0]], "y").unwrap();
    Layer { graph, x, logits, weights, y }
}

impl Layer {
    fn leaves(&self, x: &Matrix, logits: &Matrix, weights: &[Matrix; 3]) -> Vec<(ValueId, Matrix)> {
        let of_weights = self.weights.into_iter().zip(weights.iter().cloned());
        [(self.x, x.clone()), (self.logits, logits.clone())].into_iter().chain(of_weights).collect()
    }
}

fn weights(random: &mut Random, experts: usize, dtype: DType) -> [Matrix; 3] {
    [[INNER, HIDDEN], [INNER, HIDDEN], [HIDDEN, INNER]]
        .map(|[rows, columns]| random.stored([experts * rows, columns], 0.3, dtype))
}

fn counts(tokens: usize) -> Counts {
    Counts { tokens, ..Counts::default() }
}

/// Of experts that always one is chosen of, whichever it is, that one is the whole layer: also where a run has fewer rows than there is room
/// for, and where all experts but one have none.
#[test]
fn one_expert_that_is_always_chosen_is_a_dense_mlp() {
    for (tokens, experts, always) in [(1, 4, 0), (40, 4, 3), (33, 3, 1)] {
        let mut random = Random(9 + tokens as u64);
        let layer = layer(50, experts, 1, DType::F32);
        let (x, all) = (random.matrix([tokens, HIDDEN], 1.0), weights(&mut random, experts, DType::F32));
        let mut logits = random.matrix([tokens, experts], 1.0);
        (0..tokens).for_each(|t| logits.row_mut(t)[always] = 3.0);
        let found = run_on_device(&layer.graph, &layer.leaves(&x, &logits, &all), &[layer.y], &counts(tokens)).swap_remove(0);

        let mut graph = Graph::new();
        let input = graph.leaf("x", TensorType::f32(Rows::Fixed(tokens), HIDDEN), Origin::Input);
        let own = all.each_ref().map(|matrix| {
            let rows = matrix.rows / experts;
            let values = matrix.data[always * rows * matrix.columns..(always + 1) * rows * matrix.columns].to_vec();
            let leaf = graph.leaf("weight", TensorType::f32(Rows::Fixed(rows), matrix.columns), Origin::Weight);
            (leaf, Matrix::new([rows, matrix.columns], values))
        });
        let nt = Matmul { layout: Layout::NT, scale: 1.0 };
        let gate = nt.append(&mut graph, [input, own[0].0], None, "gate").unwrap();
        let up = nt.append(&mut graph, [input, own[1].0], None, "up").unwrap();
        let inner = graph.apply_one(Glu { activation: Activation::Silu }, &[gate, up], "glu").unwrap();
        let y = nt.append(&mut graph, [inner, own[2].0], None, "y").unwrap();
        let leaves = own.into_iter().chain([(input, x)]).collect();
        let expected = &reference::run(&graph, leaves, &counts(tokens))[&y];
        // 1e-6 * sqrt(k) for each of two products in a row.
        let bound = 1e-6 * ((HIDDEN as f64).sqrt() + (INNER as f64).sqrt());
        let distance = relative_distance(&found, &expected.data);
        assert!(distance <= bound, "{tokens} tokens, expert {always} of {experts}: {distance:e} > {bound:e}");
    }
}

/// Tokens in another order give the same rows in that order, bit by bit.
#[test]
fn the_order_of_tokens_does_not_matter() {
    let (tokens, experts, chosen) = (70, 5, 2);
    for dtype in [DType::F32, DType::Q4_0] {
        let mut random = Random(5);
        let layer = layer(tokens, experts, chosen, dtype);
        let (x, all) = (random.matrix([tokens, HIDDEN], 1.0), weights(&mut random, experts, dtype));
        let logits = random.matrix([tokens, experts], 2.0);
        let run = |x: &Matrix, logits: &Matrix| {
            run_on_device(&layer.graph, &layer.leaves(x, logits, &all), &[layer.y], &counts(tokens)).swap_remove(0)
        };
        let mut order: Vec<usize> = (0..tokens).collect();
        (1..tokens).rev().for_each(|at| order.swap(at, random.below(at + 1)));
        let in_order = |matrix: &Matrix| {
            let data = order.iter().flat_map(|&row| matrix.row(row)).copied().collect();
            Matrix::new([tokens, matrix.columns], data)
        };
        let (plain, other) = (run(&x, &logits), run(&in_order(&x), &in_order(&logits)));
        for (row, &from) in order.iter().enumerate() {
            let bits = |values: &[f32], row: usize| -> Vec<u32> {
                values[row * HIDDEN..(row + 1) * HIDDEN].iter().map(|value| value.to_bits()).collect()
            };
            assert_eq!(bits(&other, row), bits(&plain, from), "{dtype}: token {from} at row {row}");
        }
    }
}

/// Bindings may end within an expert, at its end, or hold many: the rows of any are those of the whole.
#[test]
fn experts_in_several_bindings_are_the_same_experts() {
    let (tokens, experts) = (45, 4);
    let mut random = Random(11);
    let layer = layer(tokens, experts, 2, DType::F32);
    let (x, all) = (random.matrix([tokens, HIDDEN], 1.0), weights(&mut random, experts, DType::F32));
    let logits = random.matrix([tokens, experts], 2.0);
    let leaves = layer.leaves(&x, &logits, &all);
    let whole = run_on_device(&layer.graph, &leaves, &[layer.y], &counts(tokens)).swap_remove(0);
    for part_rows in [32, 64, 96, 160] {
        let split = run_split(&device(), &layer.graph, &leaves, &[layer.y], &counts(tokens), Some(part_rows)).swap_remove(0);
        let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&split), bits(&whole), "{part_rows} rows a binding");
    }
    // The gradient of the input goes along the rows of an expert, which lie in several bindings.
    let mut graph = Graph::new();
    let a = graph.leaf("a", TensorType::f32(Rows::Fixed(20), INNER), Origin::Input);
    let b = graph.leaf("b", TensorType::f32(Rows::Fixed(3 * INNER), HIDDEN), Origin::Weight);
    let offsets = graph.leaf("offsets", TensorType::u32(Rows::Fixed(4), 1), Origin::Input);
    let y = graph.apply_one(MatmulExperts { layout: Layout::NN, scale: 0.5 }, &[a, b, offsets], "y").unwrap();
    let leaves = vec![
        (a, random.matrix([20, INNER], 1.0)),
        (b, random.matrix([3 * INNER, HIDDEN], 1.0)),
        (offsets, Matrix::new([4, 1], vec![0.0, 7.0, 7.0, 20.0])),
    ];
    let expected = &reference::run(&graph, leaves.iter().cloned().collect(), &Counts::default())[&y];
    for part_rows in [32, 96, 128] {
        let found = run_split(&device(), &graph, &leaves, &[y], &Counts::default(), Some(part_rows)).swap_remove(0);
        let distance = relative_distance(&found, &expected.data);
        assert!(distance <= 1e-6 * (INNER as f64).sqrt(), "{part_rows} rows a binding: {distance:e}");
    }
    assert_eq!(as_f32(expected).len(), 20 * HIDDEN);
}

/// What the routers of so many layers, of these rows each, lose by spreading their tokens unevenly: on the device and in f64.
fn balance(most: usize, chosen: usize, layers: &[Matrix]) -> [f64; 2] {
    let (tokens, experts) = (layers[0].rows, layers[0].columns);
    let mut graph = Graph::new();
    let mut shares: Vec<ValueId> = Vec::new();
    let mut leaves = Vec::new();
    for (number, logits) in layers.iter().enumerate() {
        let leaf = graph.leaf(format!("logits.{number}"), TensorType::f32(Rows::Tokens(most), experts), Origin::Input);
        let routed = graph.apply(Route { experts: chosen, renormalised: true }, &[leaf], "route").unwrap();
        let inputs = [&[leaf, routed[1]], &shares[..]].concat();
        shares = graph.apply(ExpertShares, &inputs, "shares").unwrap();
        leaves.push((leaf, logits.clone()));
    }
    let loss = graph.apply_one(LoadBalancingLoss { chosen }, &shares, "loss").unwrap();
    let found = run_on_device(&graph, &leaves, &[loss], &counts(tokens)).swap_remove(0)[0];
    let exact = reference::run(&graph, leaves.into_iter().collect(), &counts(tokens))[&loss].data[0];
    [f64::from(found), exact]
}

/// Rounding of sums over so many rows, relative.
fn balance_bound(rows: usize) -> f64 {
    1e-6 * (rows as f64).sqrt()
}

/// Routers to which all experts are alike lose K, whatever is chosen; where all are chosen it is E, whatever they are like.
#[test]
fn a_router_that_spreads_its_tokens_loses_as_many_as_it_chooses() {
    for (tokens, experts, chosen) in [(1, 4, 2), (70, 8, 2), (200, 5, 5), (65, 130, 8)] {
        let alike = Matrix::new([tokens, experts], vec![0.75; tokens * experts]);
        let any = Random(3).matrix([tokens, experts], 3.0);
        let mut wanted = vec![(alike, chosen)];
        if chosen == experts {
            wanted.push((any, experts));
        }
        for (logits, expected) in wanted {
            for found in balance(tokens + 9, chosen, &[logits]) {
                let distance = (found / expected as f64 - 1.0).abs();
                assert!(distance <= balance_bound(tokens), "{tokens} tokens, {chosen} of {experts} experts: {found}");
            }
        }
    }
    // All tokens on one of 8 experts, for sure.
    let mut one = Matrix::zeros([40, 8]);
    (0..40).for_each(|t| one.row_mut(t)[5] = 90.0);
    balance(40, 1, &[one]).iter().for_each(|found| assert!((found - 8.0).abs() < 1e-5, "{found}"));
}

/// Layers one after the other are the rows of all of them together, in any order.
#[test]
fn the_balance_of_layers_is_that_of_all_their_rows() {
    let (tokens, experts, chosen) = (67, 6, 2);
    let mut random = Random(8);
    let layers: Vec<Matrix> = (0..3).map(|_| random.matrix([tokens, experts], 2.0)).collect();
    let rows: Vec<f64> = layers.iter().rev().flat_map(|layer| layer.data.clone()).collect();
    let together = Matrix::new([3 * tokens, experts], rows);
    let (apart, together) = (balance(90, chosen, &layers), balance(3 * tokens, chosen, &[together]));
    assert!((apart[1] - together[1]).abs() <= 1e-12 * together[1], "{apart:?} {together:?}");
    for (found, exact) in [(apart[0], apart[1]), (together[0], together[1])] {
        assert!((found / exact - 1.0).abs() <= balance_bound(3 * tokens), "{found} {exact}");
    }
    assert!(together[1] > chosen as f64);
}

/// A part of a model has not the routers of all layers, so it has no such loss.
#[test]
fn the_balance_of_a_part_of_a_model_is_refused() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/reference/families/qwen3_moe/config.json"));
    let config = Architecture::from_json_str(&text.unwrap()).unwrap();
    assert_eq!(config.router_aux_loss_coef, None, "the config does not say output_router_logits");
    let lora = UniformLora { r: 2, scale: 1.0, dropout: 0.0, target_modules: vec!["q_proj".to_owned()], layers: vec![1] };
    let placement = lora.on(&config);
    let build = |config: &Architecture, part| LossGraph::build_part(config, &|_| DType::F32, &placement, part, 16);
    assert!(build(&config, Part::From(1)).unwrap().balance.is_none());
    let balanced = Architecture { router_aux_loss_coef: Some(0.1), ..config };
    let graph = build(&balanced, Part::Whole).unwrap();
    assert_eq!(graph.balance.unwrap().coefficient, 0.1);
    // The router of the layer below the adapter is looked at, and has no gradient.
    let nodes = |op: &str| graph.model.graph.nodes().iter().filter(|node| node.op.name() == op).count();
    assert_eq!(["expert_shares", "expert_shares_backward", "load_balancing_loss"].map(nodes), [2, 1, 1]);
    let refused = build(&balanced, Part::From(1)).unwrap_err().to_string();
    assert!(refused.contains("load balancing loss") && refused.contains("all layers"), "{refused}");
}

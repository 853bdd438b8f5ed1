//! Which kernels are asked for: what is chosen on any kind of GPU, but for sizes of heads that no model has.

use crate::variants::{self, Variant};
use graftling::graph::{Dispatch, Graph, Origin, Rows, TensorType};
use graftling::kernel::{Class, Facts, Tuning};
use graftling::ops::attention::{Attention, AttentionBackwardKeyValue, AttentionBackwardQuery, Heads};
use std::collections::{BTreeMap, BTreeSet, HashSet};

/// A kernel, and on which devices it is chosen.
pub struct Chosen {
    pub variant: Variant,
    /// [`Facts::has_narrow_subgroups`] of those devices.
    pub with_narrow_subgroups: BTreeSet<bool>,
}

/// Columns of a head.
const HEAD_DIMS: [usize; 3] = [64, 128, 256];

/// What is chosen on GPUs, with heads of the sizes that models have; each algorithm with a few formats of weights, the most used form with all.
pub fn on_gpus() -> Vec<Chosen> {
    let is_wanted = |variant: &Variant| {
        let weights = variant.kernel.slots.iter().find(|(slot, _)| *slot == "weights").map(|(_, part)| *part);
        let some = ["weights_f32", "weights_bf16", "weights_q4_k", "weights_q6_k"];
        let head = variant.constants.iter().find(|(name, _)| *name == "HEAD_VEC4");
        let is_usual = variant.kernel.name.starts_with("matmul_tiled_q") && variant.constants.len() <= 1;
        head.is_none_or(|(_, size)| HEAD_DIMS.iter().any(|&columns| columns as f64 == 4.0 * size))
            && weights.is_none_or(|weights| is_usual || some.contains(&weights))
    };
    let mut found = all();
    found.retain(|chosen| is_wanted(&chosen.variant));
    found
}

/// What is chosen on GPUs, of which some offer subgroups, f16 or matrices, and attention with these heads.
fn all() -> Vec<Chosen> {
    let mut found: BTreeMap<String, Chosen> = BTreeMap::new();
    for facts in variants::kinds_of_device().into_iter().filter(|facts| !facts.cpu_driver) {
        let mut add = |dispatch: Dispatch| {
            let variant = Variant { kernel: dispatch.kernel, constants: dispatch.constants };
            let chosen = found.entry(variant.to_string());
            let chosen = chosen.or_insert(Chosen { variant, with_narrow_subgroups: BTreeSet::new() });
            chosen.with_narrow_subgroups.insert(facts.has_narrow_subgroups());
        };
        let listening = Tuning::listening();
        variants::calls(&facts, &listening).into_iter().flat_map(|(_, dispatches)| dispatches).for_each(&mut add);
        // What measurement may choose instead, with low-rank terms as well: the first choices of all classes, the second, ...
        let asked: HashSet<Class> = listening.asked().into_iter().collect();
        let most = asked.iter().map(|class| class.candidates(&facts).len()).max().unwrap_or(0);
        for rank in 1..most {
            let nth = |class: &Class| class.candidates(&facts).get(rank).map(|id| (*class, id.to_string()));
            let tuning = Tuning::new(asked.iter().filter_map(nth).collect());
            variants::calls(&facts, &tuning).into_iter().flat_map(|(_, dispatches)| dispatches).for_each(&mut add);
        }
        for columns in HEAD_DIMS {
            attention(Heads::new(8, 2, columns), &facts).into_iter().for_each(&mut add);
        }
    }
    found.into_values().collect()
}

/// What attention with sinks and its gradients launch for 512 tokens, with and without a soft cap.
fn attention(heads: Heads, facts: &Facts) -> Vec<Dispatch> {
    let mut dispatches = Vec::new();
    for heads in [heads, Heads { softcap: Some(50.0), ..heads }] {
        let mut graph = Graph::new();
        let rows = Rows::Fixed(512);
        let mut leaf = |columns| graph.leaf("matrix", TensorType::f32(rows, columns), Origin::Input);
        let q = leaf(heads.heads * heads.head_dim);
        let [k, v] = [(); 2].map(|()| leaf(heads.key_value_heads * heads.head_dim));
        let d_out = leaf(heads.heads * heads.head_dim);
        let [position, start] = [(); 2].map(|()| graph.leaf("rows", TensorType::u32(rows, 1), Origin::Input));
        let sinks = graph.leaf("sinks", TensorType::f32(Rows::Fixed(1), heads.heads), Origin::Input);
        let forward = graph.apply(Attention(heads), &[q, k, v, position, start, sinks], "out").expect("the heads are sound");
        let query = [q, k, v, forward[0], forward[1], d_out, start];
        let query = graph.apply(AttentionBackwardQuery(heads), &query, "d_q").expect("the heads are sound");
        let key_value = [q, k, v, query[1], d_out, start];
        graph.apply(AttentionBackwardKeyValue(heads), &key_value, "d_k").expect("the heads are sound");
        dispatches
            .extend(variants::calls_of(&graph, facts, &Tuning::NONE, 512).into_iter().flat_map(|(_, dispatches)| dispatches));
    }
    dispatches
}

//! Mixtures of experts: which layers have one, how many experts a token is sent to, and where files keep what belongs to them.
//!
//! A router, a matrix `[count, hidden_size]`, gives each token a number for each expert. The softmax over all of them chooses `per_token`
//! experts, the outputs of which are added up with their shares as weights. Beside them some families have one expert for every token,
//! behind a gate of its own: `sigmoid(g x) * shared(x)`.

use std::ops::Range;

use serde_json::{Map, Value, json};

use super::gguf::Said;
use super::{Architecture, LARGEST_DIMENSION, gguf, json};
use crate::{Error, Result};

/// The mixture of experts in the layers of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct Experts {
    pub count: usize,
    /// To how many of them a token is sent.
    pub per_token: usize,
    /// Features inside an expert.
    pub intermediate_size: usize,
    /// Whether the weights of a token's experts are made to add up to 1.
    pub renormalised: bool,
    /// Features inside the expert that every token is sent to, where there is one.
    pub shared_intermediate_size: Option<usize>,
    /// Of each layer whether it has experts in the place of its MLP.
    pub layers: Vec<bool>,
}

/// What files call the parts of an expert.
#[derive(Debug)]
pub struct ExpertNames {
    /// What the experts hang on in their layer: `mlp`.
    pub parent: &'static str,
    /// That followed by `experts`.
    pub experts: &'static str,
    /// Gate, up and down.
    pub modules: [&'static str; 3],
    /// What chooses them, below the parent.
    pub router: &'static str,
    /// Whether they are no modules of their own: gate and up of all experts are one parameter of the layer's, and down is another. A folder
    /// has these, gate and up alternating, as `[experts, in_features, out_features]`, and PEFT adapts them so (`target_parameters`).
    pub together: bool,
}

impl Architecture {
    /// Whether the family's experts are no modules of their own; see [`ExpertNames::together`].
    pub fn has_experts_together(&self) -> bool {
        self.family().experts.as_ref().is_some_and(|names| names.together)
    }
}

/// Gate and up of experts that are [together](ExpertNames::together).
pub const GATE_UP: &str = "gate_up_proj";

impl ExpertNames {
    /// Of most families.
    pub const USUAL: Self = Self {
        parent: "mlp",
        experts: "mlp.experts",
        modules: ["gate_proj", "up_proj", "down_proj"],
        router: "gate",
        together: false,
    };

    /// A name with a router's parent in it (`layers.3.mlp.gate.weight`, `mlp.gate`) as this family has it. Transformers 5 has the routers of all
    /// families where most have theirs.
    pub fn of_today(&self, name: &str) -> String {
        let own = name.split('.').map(|part| if part == Self::USUAL.parent { self.parent } else { part });
        own.collect::<Vec<_>>().join(".")
    }
}

/// Rows of all experts, cut where one ends: of each piece the expert and its own rows.
pub fn by_expert(rows: Range<usize>, each: usize) -> impl Iterator<Item = (usize, Range<usize>)> {
    let each = each.max(1);
    let experts = if rows.is_empty() { 0..0 } else { rows.start / each..(rows.end - 1) / each + 1 };
    experts.map(move |expert| {
        let first = expert * each;
        (expert, rows.start.max(first) - first..rows.end.min(first + each) - first)
    })
}

/// A name of a router's (`layers.3.block_sparse_moe.gate.weight`) as transformers 5 has it; `None` where that is the same.
pub fn router_of_today(name: &str) -> Option<String> {
    let usual = ExpertNames::USUAL.parent;
    let mut others = names_of_families().map(|names| names.parent).filter(|parent| *parent != usual);
    let parent = others.find(|parent| name.split('.').any(|part| part == *parent))?;
    Some(name.replacen(&format!(".{parent}."), &format!(".{usual}."), 1))
}

/// Does a family hang experts and their router on this in their layer?
pub fn is_parent(name: &str) -> bool {
    names_of_families().any(|names| names.parent == name)
}

/// What the layers of the expert hang on that every token is sent to.
pub const SHARED_EXPERT: &str = "mlp.shared_expert";
/// The module that weighs what this expert gives.
pub const SHARED_EXPERT_GATE: &str = "shared_expert_gate";

/// Is this what a family calls the module that chooses experts?
pub fn is_router(module: &str) -> bool {
    names_of_families().any(|names| names.router == module)
}

/// Does the name of a module end with what a family calls its routers?
pub fn means_routers(name: &str) -> bool {
    names_of_families().any(|names| name.ends_with(names.router))
}

/// The name of something of one expert, of that of all (`layers.3.mlp.experts.gate_proj`); any other name as it is.
pub fn of_expert(name: &str, expert: usize) -> String {
    name.replacen(".experts.", &format!(".experts.{expert}."), 1)
}

/// The names in the family that calls a module of its experts so, and the module's place there.
pub fn names_with(module: &str) -> Option<(&'static ExpertNames, usize)> {
    names_of_families().find_map(|names| Some((names, names.modules.iter().position(|known| *known == module)?)))
}

/// Those of each family that has experts.
fn names_of_families() -> impl Iterator<Item = &'static ExpertNames> {
    super::FAMILIES.iter().filter_map(|family| family.experts.as_ref())
}

/// Most experts that are believed.
pub const MOST_EXPERTS: usize = 4096;

impl Experts {
    /// Checks that the numbers are possible.
    ///
    /// # Errors
    /// [`Error::BadInput`] at `place` naming the first that cannot be.
    pub(super) fn check(&self, place: &str, hidden_size: usize) -> Result<()> {
        let widest = self.intermediate_size.max(hidden_size).max(1);
        let most = (LARGEST_DIMENSION / widest).clamp(1, MOST_EXPERTS);
        for (what, value, most) in [
            ("number of experts", self.count, most),
            ("experts per token", self.per_token, self.count),
            ("intermediate size of an expert", self.intermediate_size, LARGEST_DIMENSION),
            ("intermediate size of the shared expert", self.shared_intermediate_size.unwrap_or(1), LARGEST_DIMENSION),
        ] {
            if value == 0 || value > most {
                let problem = format!("is {value}, but must be from 1 to {most}");
                return Err(Error::bad_input(format!("{place}: {what}"), problem, super::WRONG_CONFIG));
            }
        }
        Ok(())
    }

    /// Of the values in the matrices of all experts, and in their biases if they have some, those that are not used for a token.
    pub fn idle(&self, hidden_size: usize, biases: bool) -> u64 {
        let [inner, hidden] = [self.intermediate_size, hidden_size].map(|size| size as u64);
        let each = 3 * inner * hidden + if biases { 2 * inner + hidden } else { 0 };
        let layers = self.layers.iter().filter(|has| **has).count() as u64;
        layers * (self.count - self.per_token) as u64 * each
    }

    /// What a Qwen's config says; `experts` is the usual number of them.
    pub(super) fn of_qwen(keys: &json::Keys, layers: usize, usual: &Usual) -> Result<Self> {
        let size = |key: &str, usual: usize| Ok::<usize, Error>(keys.optional_size(key)?.unwrap_or(usual));
        let count = match keys.optional_size("num_experts")? {
            Some(count) => count,
            None => size("num_local_experts", usual.count)?,
        };
        let step = size("decoder_sparse_step", 1)?.max(1);
        let dense = match keys.get("mlp_only_layers") {
            None => Vec::new(),
            Some(Value::Array(layers)) => layers.iter().filter_map(Value::as_u64).collect(),
            Some(other) => return Err(keys.bad("mlp_only_layers", format!("is {other}, not a list of layers"))),
        };
        Ok(Self {
            count,
            per_token: size("num_experts_per_tok", usual.per_token)?,
            intermediate_size: size("moe_intermediate_size", usual.intermediate_size)?,
            renormalised: keys.is_on("norm_topk_prob")?,
            shared_intermediate_size: match usual.shared_intermediate_size {
                Some(usual) => Some(size("shared_expert_intermediate_size", usual)?),
                None => None,
            },
            layers: (0..layers).map(|layer| (layer + 1) % step == 0 && !dense.contains(&(layer as u64))).collect(),
        })
    }

    /// The inverse of [`Experts::of_qwen`].
    pub(super) fn say_qwen(model: &Architecture, map: &mut Map<String, Value>) {
        let Some(experts) = &model.experts else { return };
        let dense: Vec<usize> = (0..experts.layers.len()).filter(|&layer| !experts.layers[layer]).collect();
        for (key, value) in [
            ("num_experts", json!(experts.count)),
            ("num_experts_per_tok", json!(experts.per_token)),
            ("moe_intermediate_size", json!(experts.intermediate_size)),
            ("norm_topk_prob", json!(experts.renormalised)),
            ("decoder_sparse_step", json!(1)),
            ("mlp_only_layers", json!(dense)),
        ] {
            map.insert(key.to_owned(), value);
        }
        if let Some(size) = experts.shared_intermediate_size {
            map.insert("shared_expert_intermediate_size".to_owned(), json!(size));
        }
    }

    /// What a GGUF file says; llama.cpp renormalises by family.
    pub(super) fn from_gguf(keys: &gguf::Keys, model: &Architecture, renormalised: bool, shared: bool) -> Result<Self> {
        let size = |key: &str| keys.size(key)?.ok_or_else(|| keys.bad(key, "is missing"));
        let of_shared = match keys.size("expert_shared_feed_forward_length")? {
            Some(size) => size,
            // The tensor says it where the key does not.
            None => keys
                .shape("blk.0.ffn_up_shexp.weight")
                .and_then(|shape| shape.first().copied())
                .unwrap_or(model.intermediate_size),
        };
        Ok(Self {
            count: size("expert_count")?,
            per_token: size("expert_used_count")?,
            intermediate_size: keys.size("expert_feed_forward_length")?.unwrap_or(model.intermediate_size),
            renormalised,
            shared_intermediate_size: shared.then_some(of_shared),
            layers: (0..model.num_hidden_layers).map(|layer| keys.has(&format!("blk.{layer}.ffn_gate_inp.weight"))).collect(),
        })
    }

    /// Those of a config with `num_local_experts`, in every layer, the weights of which add up to 1; `usual` ones without the keys.
    pub(super) fn local(keys: &json::Keys, model: &Architecture, usual: [usize; 2]) -> Result<Self> {
        Ok(Self {
            count: keys.optional_size("num_local_experts")?.unwrap_or(usual[0]),
            per_token: keys.optional_size("num_experts_per_tok")?.unwrap_or(usual[1]),
            intermediate_size: model.intermediate_size,
            renormalised: true,
            shared_intermediate_size: None,
            layers: vec![true; model.num_hidden_layers],
        })
    }

    /// The inverse of [`Experts::local`].
    pub(super) fn say_local(model: &Architecture, map: &mut Map<String, Value>) {
        if let Some(experts) = &model.experts {
            map.insert("num_local_experts".to_owned(), json!(experts.count));
            map.insert("num_experts_per_tok".to_owned(), json!(experts.per_token));
        }
    }

    /// The inverse of [`Experts::from_gguf`].
    pub(super) fn to_gguf(model: &Architecture, said: &mut Said) {
        let Some(experts) = &model.experts else { return };
        let sizes = [
            ("expert_count", Some(experts.count)),
            ("expert_used_count", Some(experts.per_token)),
            ("expert_feed_forward_length", Some(experts.intermediate_size)),
            ("expert_shared_feed_forward_length", experts.shared_intermediate_size),
        ];
        for (key, size) in sizes {
            if let Some(size) = size {
                said.say(key, gguf::Value::Size(size));
            }
        }
    }
}

/// What transformers takes for keys that a config does not have.
pub(super) struct Usual {
    pub count: usize,
    pub per_token: usize,
    pub intermediate_size: usize,
    pub shared_intermediate_size: Option<usize>,
}

/// Keys of the mixtures in Qwen's configs.
pub(super) const QWEN_KEYS: [&str; 15] = [
    "use_sliding_window",
    "sliding_window",
    "max_window_layers",
    "layer_types",
    "num_experts",
    "num_local_experts",
    "num_experts_per_tok",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "norm_topk_prob",
    "decoder_sparse_step",
    "mlp_only_layers",
    "router_aux_loss_coef",
    "qkv_bias",
    "attention_bias",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_cut_where_an_expert_ends() {
        let pieces: Vec<_> = by_expert(3..10, 4).collect();
        assert_eq!(pieces, [(0, 3..4), (1, 0..4), (2, 0..2)]);
        assert_eq!(by_expert(4..4, 4).count(), 0);
    }
}

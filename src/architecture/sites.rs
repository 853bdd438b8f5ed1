//! The one table of a model's linear layers: what users and PEFT call them, their shapes, and what the graph takes from each.

use super::Architecture;

/// What a parameter belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    Embedding,
    Attention,
    Mlp,
    Norm,
    /// The output matrix, where it is not the embedding.
    Output,
}

impl Part {
    pub const ALL: [Part; 5] = [Self::Embedding, Self::Attention, Self::Mlp, Self::Norm, Self::Output];

    /// The word for tables and JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Embedding => "embedding",
            Self::Attention => "attention",
            Self::Mlp => "mlp",
            Self::Norm => "norm",
            Self::Output => "output",
        }
    }
}

/// What a linear layer, or a part of a fused one, computes in its block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    Query,
    Key,
    Value,
    /// From the heads back to the hidden states.
    AttentionOutput,
    Gate,
    Up,
    Down,
}

/// A linear layer of a block: what an adapter can adapt.
#[derive(Clone, Debug, PartialEq)]
pub struct Site {
    /// Counted from 0.
    pub layer: usize,
    /// The place in [`sites`], which is an identity as long as the model is the same.
    pub number: usize,
    /// The module's own name, by which users and PEFT choose it: `q_proj`.
    pub module: &'static str,
    /// ggml's name of it within the block: `attn_q`.
    pub ggml: &'static str,
    /// [`Part::Attention`] or [`Part::Mlp`].
    pub part: Part,
    pub out_features: usize,
    pub in_features: usize,
    pub bias: bool,
    /// What it computes, in the order of its rows, and the number of rows of each; several where matrices are fused.
    pub outputs: Vec<(Role, usize)>,
}

impl Site {
    /// Where the module hangs in its layer: `self_attn.q_proj`.
    pub fn path(&self) -> String {
        let parent = if self.part == Part::Attention { "self_attn" } else { "mlp" };
        format!("{parent}.{}", self.module)
    }

    /// The name of the layer with its place in the model: `layers.3.self_attn.q_proj`.
    pub fn name(&self) -> String {
        format!("layers.{}.{}", self.layer, self.path())
    }

    /// Parameters of a LoRA pair of rank `r`: A `[r, in]` and B `[out, r]`.
    pub fn lora_parameters(&self, r: usize) -> u64 {
        r as u64 * (self.in_features as u64 + self.out_features as u64)
    }

    /// Does it compute this?
    pub fn has(&self, role: Role) -> bool {
        self.outputs.iter().any(|(known, _)| *known == role)
    }
}

/// The linear layers of one block, in the order in which a token meets them.
pub fn layer_sites(model: &Architecture, layer: usize) -> Vec<Site> {
    let (hidden, inner) = (model.hidden_size, model.intermediate_size);
    let (query, key) = (model.query_size(), model.key_value_size());
    let (qkv_bias, o_bias, mlp_bias) = (model.query_key_value_bias, model.attention_output_bias, model.mlp_bias);
    type Row = (&'static str, &'static str, Part, Vec<(Role, usize)>, usize, bool);
    let mut rows: Vec<Row> = Vec::new();
    if model.fused {
        let outputs = vec![(Role::Query, query), (Role::Key, key), (Role::Value, key)];
        rows.push(("qkv_proj", "attn_qkv", Part::Attention, outputs, hidden, qkv_bias));
    } else {
        rows.push(("q_proj", "attn_q", Part::Attention, vec![(Role::Query, query)], hidden, qkv_bias));
        rows.push(("k_proj", "attn_k", Part::Attention, vec![(Role::Key, key)], hidden, qkv_bias));
        rows.push(("v_proj", "attn_v", Part::Attention, vec![(Role::Value, key)], hidden, qkv_bias));
    }
    rows.push(("o_proj", "attn_output", Part::Attention, vec![(Role::AttentionOutput, hidden)], query, o_bias));
    if model.fused {
        rows.push(("gate_up_proj", "ffn_up", Part::Mlp, vec![(Role::Gate, inner), (Role::Up, inner)], hidden, mlp_bias));
    } else {
        rows.push(("gate_proj", "ffn_gate", Part::Mlp, vec![(Role::Gate, inner)], hidden, mlp_bias));
        rows.push(("up_proj", "ffn_up", Part::Mlp, vec![(Role::Up, inner)], hidden, mlp_bias));
    }
    rows.push(("down_proj", "ffn_down", Part::Mlp, vec![(Role::Down, hidden)], inner, mlp_bias));
    let count = rows.len();
    let site = |(index, (module, ggml, part, outputs, in_features, bias)): (usize, Row)| Site {
        layer,
        number: layer * count + index,
        module,
        ggml,
        part,
        out_features: outputs.iter().map(|(_, rows)| rows).sum(),
        in_features,
        bias,
        outputs,
    };
    rows.into_iter().enumerate().map(site).collect()
}

/// The linear layers of all blocks, from the first block to the last.
pub fn sites(model: &Architecture) -> Vec<Site> {
    (0..model.num_hidden_layers).flat_map(|layer| layer_sites(model, layer)).collect()
}

/// The kinds of linear layers, each by the first one of its name.
pub fn linear_modules(model: &Architecture) -> Vec<Site> {
    let mut modules: Vec<Site> = Vec::new();
    for site in sites(model) {
        if modules.iter().all(|known| known.module != site.module) {
            modules.push(site);
        }
    }
    modules
}

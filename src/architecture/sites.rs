//! The one table of a model's linear layers: what users and PEFT call them, their shapes, and what the graph takes from each.

use super::Architecture;
use super::experts::{ExpertNames, SHARED_EXPERT};

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
    /// Where it hangs in its layer: `self_attn`, `mlp`, `mlp.experts`.
    pub parent: &'static str,
    /// Of each expert, where there are several.
    pub out_features: usize,
    pub in_features: usize,
    pub bias: bool,
    /// What it computes, in the order of its rows, and the number of rows of each; several where matrices are fused.
    pub outputs: Vec<(Role, usize)>,
    /// Of so many experts it is the layer, each with a matrix of its own; they lie one below the other.
    pub experts: Option<usize>,
}

impl Site {
    /// Where the module hangs in its layer: `self_attn.q_proj`.
    pub fn path(&self) -> String {
        format!("{}.{}", self.parent, self.module)
    }

    /// How many matrices it has: one for each expert.
    pub fn matrices(&self) -> usize {
        self.experts.unwrap_or(1)
    }

    /// The name of the layer with its place in the model: `layers.3.self_attn.q_proj`.
    pub fn name(&self) -> String {
        format!("layers.{}.{}", self.layer, self.path())
    }

    /// Parameters of a LoRA pair of rank `r`, A `[r, in]` and B `[out, r]`, for each expert.
    pub fn lora_parameters(&self, r: usize) -> u64 {
        self.matrices() as u64 * r as u64 * (self.in_features as u64 + self.out_features as u64)
    }

    /// Does it compute this?
    pub fn has(&self, role: Role) -> bool {
        self.outputs.iter().any(|(known, _)| *known == role)
    }
}

/// A linear layer, but for where it stands among all.
struct Row {
    module: &'static str,
    ggml: &'static str,
    part: Part,
    parent: &'static str,
    outputs: Vec<(Role, usize)>,
    in_features: usize,
    bias: bool,
    experts: Option<usize>,
}

/// The linear layers of one block, in the order in which a token meets them. Those of all experts are one site a kind.
pub fn layer_sites(model: &Architecture, layer: usize) -> Vec<Site> {
    let mut rows = attention_rows(model);
    // A layer with experts has other linear layers than one without.
    let before = layer * rows.len() + (0..layer).map(|layer| mlp_count(model, layer)).sum::<usize>();
    rows.extend(mlp_rows(model, layer));
    let site = |(index, row): (usize, Row)| Site {
        layer,
        number: before + index,
        module: row.module,
        ggml: row.ggml,
        part: row.part,
        parent: row.parent,
        out_features: row.outputs.iter().map(|(_, rows)| rows).sum(),
        in_features: row.in_features,
        bias: row.bias,
        outputs: row.outputs,
        experts: row.experts,
    };
    rows.into_iter().enumerate().map(site).collect()
}

fn attention_rows(model: &Architecture) -> Vec<Row> {
    let (hidden, query, key) = (model.hidden_size, model.query_size(), model.key_value_size());
    let (qkv_bias, o_bias) = (model.query_key_value_bias, model.attention_output_bias);
    let row = |module, ggml, outputs, in_features, bias| Row {
        module,
        ggml,
        part: Part::Attention,
        parent: "self_attn",
        outputs,
        in_features,
        bias,
        experts: None,
    };
    let mut rows = if model.fused {
        let outputs = vec![(Role::Query, query), (Role::Key, key), (Role::Value, key)];
        vec![row("qkv_proj", "attn_qkv", outputs, hidden, qkv_bias)]
    } else {
        vec![
            row("q_proj", "attn_q", vec![(Role::Query, query)], hidden, qkv_bias),
            row("k_proj", "attn_k", vec![(Role::Key, key)], hidden, qkv_bias),
            row("v_proj", "attn_v", vec![(Role::Value, key)], hidden, qkv_bias),
        ]
    };
    rows.push(row("o_proj", "attn_output", vec![(Role::AttentionOutput, hidden)], query, o_bias));
    rows
}

/// How many [`mlp_rows`] has.
fn mlp_count(model: &Architecture, layer: usize) -> usize {
    match model.experts_of(layer) {
        Some(experts) => 3 + if experts.shared_intermediate_size.is_some() { 3 } else { 0 },
        None => 3 - usize::from(model.fused),
    }
}

fn mlp_rows(model: &Architecture, layer: usize) -> Vec<Row> {
    let (hidden, inner, bias) = (model.hidden_size, model.intermediate_size, model.mlp_bias);
    // Gate, up and down of one width, by these names.
    let gated = |parent, modules: [&'static str; 3], ggml: [&'static str; 3], inner: usize, experts| {
        let sizes = [(Role::Gate, inner, hidden), (Role::Up, inner, hidden), (Role::Down, hidden, inner)];
        let row = |((module, ggml), (role, out, input)): ((&'static str, &'static str), (Role, usize, usize))| Row {
            module,
            ggml,
            part: Part::Mlp,
            parent,
            outputs: vec![(role, out)],
            in_features: input,
            bias,
            experts,
        };
        modules.into_iter().zip(ggml).zip(sizes).map(row).collect::<Vec<_>>()
    };
    let plain = ExpertNames::USUAL.modules;
    match (model.experts_of(layer), &model.family().experts) {
        (Some(experts), Some(names)) => {
            let ggml = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
            let mut rows = gated(names.experts, names.modules, ggml, experts.intermediate_size, Some(experts.count));
            if let Some(inner) = experts.shared_intermediate_size {
                let ggml = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
                rows.extend(gated(SHARED_EXPERT, plain, ggml, inner, None));
            }
            rows
        }
        _ if model.fused => vec![
            Row {
                module: "gate_up_proj",
                ggml: "ffn_up",
                part: Part::Mlp,
                parent: "mlp",
                outputs: vec![(Role::Gate, inner), (Role::Up, inner)],
                in_features: hidden,
                bias,
                experts: None,
            },
            Row {
                module: "down_proj",
                ggml: "ffn_down",
                part: Part::Mlp,
                parent: "mlp",
                outputs: vec![(Role::Down, hidden)],
                in_features: inner,
                bias,
                experts: None,
            },
        ],
        _ => gated("mlp", plain, ["ffn_gate", "ffn_up", "ffn_down"], inner, None),
    }
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

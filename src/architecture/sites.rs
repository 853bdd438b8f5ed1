//! The one table of a model's linear layers: what users and PEFT call them, their shapes, and what the graph takes from each.

use super::Architecture;
use super::experts::{ExpertNames, GATE_UP, SHARED_EXPERT, SHARED_EXPERT_GATE};

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
    /// Numbers by which experts are chosen or weighed.
    Router,
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
    /// Whether it is no linear module: a parameter of all experts of a layer, or a router's, which PEFT adapts as such (`target_parameters`).
    pub parameter: bool,
    /// Where each of its outputs has a tensor of its own, what these are called as modules and by ggml.
    pub apart: &'static [[&'static str; 2]],
}

/// A tensor with weights of a linear layer, whose bias, if it has one, is beside it by the same names.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// With its place in the model: `layers.3.self_attn.q_proj`.
    pub name: String,
    /// `q_proj`.
    pub module: &'static str,
    /// ggml's name of it within the block: `attn_q`.
    pub ggml: &'static str,
    /// Those of the layer's outputs that it has.
    pub outputs: Vec<(Role, usize)>,
}

impl Held {
    /// Rows of one matrix in it.
    pub fn out_features(&self) -> usize {
        width(&self.outputs)
    }
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

    /// How many modules it is in PEFT, one for each expert; 0 where it is one by its own name, or a parameter.
    pub fn expert_modules(&self) -> usize {
        self.experts.filter(|_| !self.parameter).unwrap_or(0)
    }

    /// The name of the layer with its place in the model: `layers.3.self_attn.q_proj`.
    pub fn name(&self) -> String {
        format!("layers.{}.{}", self.layer, self.path())
    }

    /// The tensors that hold its weights: one, or one for each of its outputs.
    pub fn tensors(&self) -> Vec<Held> {
        if self.apart.is_empty() {
            let outputs = self.outputs.clone();
            return vec![Held { name: self.name(), module: self.module, ggml: self.ggml, outputs }];
        }
        let held = |(&[module, ggml], &output): (&[&'static str; 2], &(Role, usize))| Held {
            name: format!("layers.{}.{}.{module}", self.layer, self.parent),
            module,
            ggml,
            outputs: vec![output],
        };
        self.apart.iter().zip(&self.outputs).map(held).collect()
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

/// The linear layers of one block, in the order in which a token meets them. Those of all experts are one site a kind.
pub fn layer_sites(model: &Architecture, layer: usize) -> Vec<Site> {
    let mut sites = unnumbered(model, layer);
    sites.iter_mut().zip(count_before(model, layer)..).for_each(|(site, number)| site.number = number);
    sites
}

/// How many linear layers the blocks before this one have.
fn count_before(model: &Architecture, layer: usize) -> usize {
    // A layer with experts has other linear layers than one without; those of one kind have the same.
    let mut counts = [None; 2];
    let count = |layer: usize| {
        let of_kind = &mut counts[usize::from(model.experts_of(layer).is_some())];
        *of_kind.get_or_insert_with(|| unnumbered(model, layer).len())
    };
    (0..layer).map(count).sum()
}

/// The linear layers of one block, without their place among all.
fn unnumbered(model: &Architecture, layer: usize) -> Vec<Site> {
    let mut sites = attention(model, layer);
    sites.extend(mlp(model, layer));
    sites
}

fn width(outputs: &[(Role, usize)]) -> usize {
    outputs.iter().map(|(_, rows)| rows).sum()
}

fn attention(model: &Architecture, layer: usize) -> Vec<Site> {
    let (hidden, query, key) = (model.hidden_size, model.query_size(), model.key_value_size());
    let (qkv_bias, o_bias) = (model.query_key_value_bias, model.attention_output_bias);
    let site = |module, ggml, outputs: Vec<(Role, usize)>, in_features, bias| Site {
        layer,
        number: 0,
        module,
        ggml,
        part: Part::Attention,
        parent: "self_attn",
        out_features: width(&outputs),
        in_features,
        bias,
        outputs,
        experts: None,
        parameter: false,
        apart: &[],
    };
    let mut sites = if model.fused {
        let outputs = vec![(Role::Query, query), (Role::Key, key), (Role::Value, key)];
        vec![site("qkv_proj", "attn_qkv", outputs, hidden, qkv_bias)]
    } else {
        vec![
            site("q_proj", "attn_q", vec![(Role::Query, query)], hidden, qkv_bias),
            site("k_proj", "attn_k", vec![(Role::Key, key)], hidden, qkv_bias),
            site("v_proj", "attn_v", vec![(Role::Value, key)], hidden, qkv_bias),
        ]
    };
    sites.push(site("o_proj", "attn_output", vec![(Role::AttentionOutput, hidden)], query, o_bias));
    sites
}

fn mlp(model: &Architecture, layer: usize) -> Vec<Site> {
    let (hidden, inner) = (model.hidden_size, model.intermediate_size);
    let site = |parent, [module, ggml]: [&'static str; 2], outputs: Vec<(Role, usize)>, in_features, experts| Site {
        layer,
        number: 0,
        module,
        ggml,
        part: Part::Mlp,
        parent,
        out_features: width(&outputs),
        in_features,
        bias: model.mlp_bias,
        outputs,
        experts,
        parameter: false,
        apart: &[],
    };
    // Gate, up and down of one width, by these names.
    let gated = |parent, modules: [&'static str; 3], ggml: [&'static str; 3], inner: usize, experts| {
        let kinds = [(Role::Gate, inner, hidden), (Role::Up, inner, hidden), (Role::Down, hidden, inner)];
        let kinds = kinds.into_iter().zip(modules.into_iter().zip(ggml));
        kinds
            .map(|((role, out, input), (module, ggml))| site(parent, [module, ggml], vec![(role, out)], input, experts))
            .collect::<Vec<_>>()
    };
    let plain = ExpertNames::USUAL.modules;
    match (model.experts_of(layer), &model.family().experts) {
        (Some(experts), Some(names)) if names.together => {
            let (inner, count) = (experts.intermediate_size, Some(experts.count));
            let gate_up = vec![(Role::Gate, inner), (Role::Up, inner)];
            let gate_up = site(names.experts, [GATE_UP, "ffn_gate_up_exps"], gate_up, hidden, count);
            let down = site(names.experts, [names.modules[2], "ffn_down_exps"], vec![(Role::Down, hidden)], inner, count);
            let apart = &[["gate_proj", "ffn_gate_exps"], ["up_proj", "ffn_up_exps"]];
            vec![Site { apart, parameter: true, ..gate_up }, Site { parameter: true, ..down }]
        }
        (Some(experts), Some(names)) => {
            let ggml = ["ffn_gate_exps", "ffn_up_exps", "ffn_down_exps"];
            let mut sites = gated(names.experts, names.modules, ggml, experts.intermediate_size, Some(experts.count));
            if let Some(inner) = experts.shared_intermediate_size {
                let ggml = ["ffn_gate_shexp", "ffn_up_shexp", "ffn_down_shexp"];
                sites.extend(gated(SHARED_EXPERT, plain, ggml, inner, None));
            }
            sites
        }
        _ if model.fused => vec![
            site("mlp", ["gate_up_proj", "ffn_up"], vec![(Role::Gate, inner), (Role::Up, inner)], hidden, None),
            site("mlp", ["down_proj", "ffn_down"], vec![(Role::Down, hidden)], inner, None),
        ],
        _ => gated("mlp", plain, ["ffn_gate", "ffn_up", "ffn_down"], inner, None),
    }
}

/// What chooses the experts of a layer, and what weighs the one that every token is sent to: layers that are adapted by their own names, and not
/// where linear layers, or those of the MLP, are meant together.
pub fn layer_routers(model: &Architecture, layer: usize) -> Vec<Site> {
    let (Some(experts), Some(names)) = (model.experts_of(layer), &model.family().experts) else { return Vec::new() };
    let has_shared = experts.shared_intermediate_size.is_some();
    let each = 1 + usize::from(has_shared);
    let before = count_before(model, model.num_hidden_layers)
        + each * (0..layer).filter(|&layer| model.experts_of(layer).is_some()).count();
    let router = |(index, (module, ggml, rows)): (usize, (&'static str, &'static str, usize))| Site {
        layer,
        number: before + index,
        module,
        ggml,
        part: Part::Mlp,
        parent: names.parent,
        out_features: rows,
        in_features: model.hidden_size,
        bias: model.mlp_bias,
        outputs: vec![(Role::Router, rows)],
        experts: None,
        parameter: names.together,
        apart: &[],
    };
    let all = [(names.router, "ffn_gate_inp", experts.count), (SHARED_EXPERT_GATE, "ffn_gate_inp_shexp", 1)];
    all.into_iter().take(each).enumerate().map(router).collect()
}

/// The [routers](layer_routers) of all blocks.
pub fn routers(model: &Architecture) -> Vec<Site> {
    (0..model.num_hidden_layers).flat_map(|layer| layer_routers(model, layer)).collect()
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

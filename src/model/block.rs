//! One block of any family: attention and MLP, each with its norms and the residual.

use super::graph::{Builder, Inputs, Purpose};
use super::hook::Linear;
use crate::architecture::{Part, Role, Site, layer_sites, norm_modules};
use crate::graph::{Origin, Rows, ShapeError, TensorType, ValueId};
use crate::ops::attention::{Attention, Heads};
use crate::ops::cache_rows::CacheRows;
use crate::ops::glu::{Activation, Glu};
use crate::ops::matmul::{Layout, Matmul};
use crate::ops::rope::Rope;

impl Builder<'_> {
    /// `x + attention(norm(x))`, then that plus `mlp(norm(...))`, with the norms where the family has them.
    pub(super) fn block(&mut self, layer: usize, x: ValueId) -> Result<ValueId, ShapeError> {
        let sites = layer_sites(self.architecture, layer);
        let [before_attention, _, before_mlp, _] = norm_modules(self.architecture.norms);

        let normed = self.block_norm(layer, before_attention, x)?;
        let heads = self.inner(&sites, Part::Attention, normed)?;
        let attended = self.attention(layer, [heads[0], heads[1], heads[2]])?;
        let x = self.onto_residual(&sites, Role::AttentionOutput, attended, x)?;

        let normed = self.block_norm(layer, before_mlp, x)?;
        let gated = self.inner(&sites, Part::Mlp, normed)?;
        let inner = self.graph.apply_one(
            Glu { activation: Activation::Silu },
            &[gated[0], gated[1]],
            format!("layers.{layer}.mlp.glu"),
        )?;
        self.onto_residual(&sites, Role::Down, inner, x)
    }

    fn block_norm(&mut self, layer: usize, module: Option<&str>, x: ValueId) -> Result<ValueId, ShapeError> {
        let Some(module) = module else { return Ok(x) };
        let name = format!("layers.{layer}.{module}");
        self.norm(x, &format!("model.{name}.weight"), &name, self.architecture.hidden_size)
    }

    /// The layers that begin a half of the block: query, key and value, or gate and up.
    fn inner(&mut self, sites: &[Site], part: Part, x: ValueId) -> Result<Vec<ValueId>, ShapeError> {
        let mut outputs = Vec::new();
        for site in sites.iter().filter(|site| site.part == part && !ends_a_half(site)) {
            outputs.extend(self.linear(site, x, None)?);
        }
        Ok(outputs)
    }

    /// The layer that ends a half of the block, added to the residual.
    fn onto_residual(&mut self, sites: &[Site], role: Role, y: ValueId, residual: ValueId) -> Result<ValueId, ShapeError> {
        let mut outputs = Vec::new();
        for site in sites.iter().filter(|site| site.has(role)) {
            outputs.extend(self.linear(site, y, Some(residual))?);
        }
        Ok(outputs[0])
    }

    fn attention(&mut self, layer: usize, [query, mut key, mut value]: [ValueId; 3]) -> Result<ValueId, ShapeError> {
        let Inputs { position, segment_start, .. } = self.inputs;
        let path = format!("layers.{layer}.self_attn");
        let table = self.rope_tables[0];
        let rope = Rope::new(self.architecture.head_dim);
        let query = self.graph.apply_one(rope, &[query, position, table], format!("{path}.q_rope"))?;
        key = self.graph.apply_one(rope, &[key, position, table], format!("{path}.k_rope"))?;
        if let Purpose::Generate { cache } = self.purpose {
            for (rows, part) in [(&mut key, "k_cache"), (&mut value, "v_cache")] {
                let name = format!("{path}.{part}");
                let tensor = TensorType::f32(Rows::Fixed(cache), self.graph[*rows].tensor.shape.columns);
                let state = self.graph.leaf(&name, tensor, Origin::State);
                self.caches.push(state);
                *rows = self.graph.apply_one(CacheRows, &[state, *rows, position], name)?;
            }
        }
        let heads = Heads {
            heads: self.architecture.num_attention_heads,
            key_value_heads: self.architecture.num_key_value_heads,
            head_dim: self.architecture.head_dim,
            scale: self.architecture.attention_scale,
        };
        self.graph.apply_one(Attention(heads), &[query, key, value, position, segment_start], path)
    }

    /// `x W^T (+ residual)`, one output for each part of the site, and what the hook adds.
    fn linear(&mut self, site: &Site, x: ValueId, residual: Option<ValueId>) -> Result<Vec<ValueId>, ShapeError> {
        let name = site.name();
        let tensor = format!("model.{name}.weight");
        let whole = site.outputs.len() == 1;
        let mut outputs = Vec::with_capacity(site.outputs.len());
        let mut first = 0;
        for (role, rows) in &site.outputs {
            let rows = first..first + rows;
            first = rows.end;
            let weight = self.matrix(&tensor, &rows, whole, site.in_features);
            let name = if whole { name.clone() } else { format!("{name}.{role:?}").to_lowercase() };
            outputs.push(Matmul { layout: Layout::NT, scale: 1.0 }.append(&mut self.graph, [x, weight], residual, name)?);
        }
        self.hook.after(&mut self.graph, Linear { site, x, factor: 1.0, outputs })
    }
}

/// Does what the layer gives belong to the residual?
fn ends_a_half(site: &Site) -> bool {
    site.has(Role::AttentionOutput) || site.has(Role::Down)
}

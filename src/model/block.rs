//! One block of any family: attention and MLP, each with its norms and the residual.

use std::ops::Range;

use super::graph::{Builder, Inputs, Purpose};
use super::hook::{Half, Linear};
use crate::architecture::{self, Part, QueryKeyNorm, Role, Site, layer_sites, norm_modules};
use crate::graph::{Origin, Rows, ShapeError, TensorType, ValueId};
use crate::kernel::Layout;
use crate::ops::add::Add;
use crate::ops::add_bias::AddBias;
use crate::ops::attention::{Attention, Heads};
use crate::ops::cache_rows::CacheRows;
use crate::ops::glu::{Activation, Glu};
use crate::ops::matmul::Matmul;
use crate::ops::rope::Rope;
use crate::ops::scale::Scale;

impl Builder<'_> {
    /// `x + attention(norm(x))`, then that plus `mlp(norm(...))`, with the norms where the family has them.
    pub(super) fn block(&mut self, layer: usize, x: ValueId) -> Result<ValueId, ShapeError> {
        let sites = layer_sites(self.architecture, layer);
        let [before_attention, after_attention, before_mlp, after_mlp] = norm_modules(self.architecture.norms);

        let normed = self.block_norm(layer, before_attention, x)?;
        let heads = self.inner(&sites, Part::Attention, normed)?;
        let attended = self.attention(layer, [heads[0], heads[1], heads[2]])?;
        let x = self.half(&sites, Role::AttentionOutput, attended, after_attention, x)?;

        let normed = self.block_norm(layer, before_mlp, x)?;
        if let Some(experts) = self.architecture.experts_of(layer) {
            let (site, output) = self.experts(layer, experts, &sites, normed)?;
            return self.join(site, output, after_mlp, x);
        }
        let gated = self.inner(&sites, Part::Mlp, normed)?;
        let inner = self.glu([gated[0], gated[1]], format!("layers.{layer}.mlp.glu"))?;
        self.half(&sites, Role::Down, inner, after_mlp, x)
    }

    /// What the activation makes of gate and up.
    pub(super) fn glu(&mut self, gate_and_up: [ValueId; 2], name: String) -> Result<ValueId, ShapeError> {
        let activation = match self.architecture.activation {
            architecture::Activation::Silu => Activation::Silu,
            architecture::Activation::GeluTanh => Activation::GeluTanh,
            architecture::Activation::ClampedSilu { limit, alpha } => Activation::ClampedSilu { limit, alpha },
        };
        self.graph.apply_one(Glu { activation }, &gate_and_up, name)
    }

    fn block_norm(&mut self, layer: usize, module: Option<&str>, x: ValueId) -> Result<ValueId, ShapeError> {
        let Some(module) = module else { return Ok(x) };
        let name = format!("layers.{layer}.{module}");
        self.norm(x, &format!("model.{name}.weight"), &name, 1)
    }

    /// The layers that begin a half of the block: query, key and value, or gate and up.
    fn inner(&mut self, sites: &[Site], part: Part, x: ValueId) -> Result<Vec<ValueId>, ShapeError> {
        let mut outputs = Vec::new();
        for site in sites.iter().filter(|site| site.part == part && !ends_a_half(site)) {
            outputs.extend(self.linear(site, x, 1.0, None)?);
        }
        Ok(outputs)
    }

    /// The layer that ends a half of the block, its norm, and the residual. Where there is nothing between the product and the residual,
    /// the product adds it on the way out.
    fn half(
        &mut self,
        sites: &[Site],
        role: Role,
        y: ValueId,
        norm: Option<&str>,
        residual: ValueId,
    ) -> Result<ValueId, ShapeError> {
        let factor = self.architecture.residual_multiplier;
        let mut sum = residual;
        for site in sites.iter().filter(|site| site.has(role)) {
            sum = if norm.is_none() && (factor == 1.0 || !site.bias) && !self.hook.stands_alone(site) {
                self.linear(site, y, factor, Some(sum))?[0]
            } else {
                let output = self.linear(site, y, 1.0, None)?[0];
                self.join(site, output, norm, sum)?
            };
        }
        Ok(sum)
    }

    /// What a half of the block gives, its norm, and the residual; `site` is the layer that ends the half.
    fn join(&mut self, site: &Site, output: ValueId, norm: Option<&str>, residual: ValueId) -> Result<ValueId, ShapeError> {
        let mut y = self.hook.after_half(&mut self.graph, Half { site, output, residual })?;
        y = self.block_norm(site.layer, norm, y)?;
        let name = format!("{}.residual", site.name());
        let factor = self.architecture.residual_multiplier;
        if factor != 1.0 {
            y = self.graph.apply_one(Scale { factor }, &[y], format!("{name}_multiplier"))?;
        }
        self.graph.apply_one(Add, &[residual, y], name)
    }

    fn attention(&mut self, layer: usize, [mut query, mut key, mut value]: [ValueId; 3]) -> Result<ValueId, ShapeError> {
        let Inputs { position, segment_start, .. } = self.inputs;
        let model = self.architecture;
        let path = format!("layers.{layer}.self_attn");
        for (rows, heads, part) in [(&mut query, model.num_attention_heads, "q"), (&mut key, model.num_key_value_heads, "k")] {
            let groups = match model.query_key_norm {
                QueryKeyNorm::None => None,
                QueryKeyNorm::Head => Some(heads),
                QueryKeyNorm::Width => Some(1),
            };
            if let Some(groups) = groups {
                *rows = self.norm(*rows, &format!("model.{path}.{part}_norm.weight"), &format!("{path}.{part}_norm"), groups)?;
            }
            if let Some(rope) = model.layers[layer].rope {
                let op = Rope { rotary_dim: model.ropes[rope].dim, ..Rope::new(model.head_dim) };
                let row = self.rope_row(rope);
                *rows = self.graph.apply_one(op, &[*rows, row, self.rope_tables[rope]], format!("{path}.{part}_rope"))?;
            }
        }
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
            scale: model.attention_scale,
            softcap: model.attention_softcap,
            window: model.layers[layer].window,
            ..Heads::new(model.num_attention_heads, model.num_key_value_heads, model.head_dim)
        };
        let mut inputs = vec![query, key, value, position, segment_start];
        if model.attention_sinks {
            inputs.push(self.vector(&format!("model.{path}.sinks"), &(0..model.num_attention_heads), true));
        }
        self.graph.apply_one(Attention(heads), &inputs, path)
    }

    /// `factor x W^T (+ residual) (+ bias)`, one output for each part of the site, and what the hook adds. With a factor there is no bias.
    pub(super) fn linear(
        &mut self,
        site: &Site,
        x: ValueId,
        factor: f64,
        residual: Option<ValueId>,
    ) -> Result<Vec<ValueId>, ShapeError> {
        let name = site.name();
        let whole = site.outputs.len() == 1;
        let mut parts = Vec::with_capacity(site.outputs.len());
        let mut first = 0;
        for (role, rows) in &site.outputs {
            let name = if whole { name.clone() } else { format!("{name}.{}", format!("{role:?}").to_lowercase()) };
            parts.push((first..first + rows, name));
            first += rows;
        }
        let (mut outputs, mut weights) = (Vec::with_capacity(parts.len()), Vec::with_capacity(parts.len()));
        let tensor = format!("model.{}.weight", site.name());
        let order = self.order_of(&tensor, site.in_features);
        let in_order = self.in_order_of(&tensor, x, order)?;
        for (rows, name) in &parts {
            let weight = self.matrix(&tensor, rows, whole, site.in_features);
            let product = Matmul { layout: Layout::NT, scale: factor };
            outputs.push(product.append(&mut self.graph, [in_order, weight], residual, name)?);
            weights.push(weight);
        }
        let mut outputs = self.hook.after(&mut self.graph, Linear { site, x, offsets: None, weights, order, factor, outputs })?;
        for (part, (output, (rows, name))) in outputs.iter_mut().zip(&parts).enumerate() {
            *output = self.with_bias(site, part, rows, name, *output)?;
        }
        Ok(outputs)
    }

    /// What a layer gives for one part of the site, with these rows of the layer's own bias, or with what the hook has in their place, where it has a
    /// bias.
    pub(super) fn with_bias(
        &mut self,
        site: &Site,
        part: usize,
        rows: &Range<usize>,
        name: &str,
        output: ValueId,
    ) -> Result<ValueId, ShapeError> {
        if !site.bias {
            return Ok(output);
        }
        let (vector, whole) = (format!("{}.bias", site.name()), site.outputs.len() == 1);
        let adapted = self.hook.vector(&mut self.graph, &vector, part);
        let bias = self.part_of_the_way(&format!("{name}.bias_vector"), adapted.is_none(), |model, _, is_adapted| {
            Ok(adapted.filter(|_| is_adapted).unwrap_or_else(|| model.vector(&format!("model.{vector}"), rows, whole)))
        })?;
        self.graph.apply_one(AddBias, &[output, bias], format!("{name}.bias"))
    }
}

/// Does what the layer gives belong to the residual?
fn ends_a_half(site: &Site) -> bool {
    site.has(Role::AttentionOutput) || site.has(Role::Down)
}

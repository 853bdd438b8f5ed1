//! The experts of a layer: the router, the rows of each expert, their gate, up and down as one product each, and the weighted sum back. In training
//! also how evenly the router spreads the tokens, where that is a part of the loss.

use super::graph::Builder;
use super::hook::Linear;
use crate::architecture::{Experts, Role, Site, layer_routers};
use crate::graph::{ShapeError, ValueId};
use crate::kernel::Layout;
use crate::ops::add::Add;
use crate::ops::add_expert_bias::AddExpertBias;
use crate::ops::expert_rows::{FromExperts, ToExperts};
use crate::ops::expert_shares::ExpertShares;
use crate::ops::gate_rows::GateRows;
use crate::ops::matmul::{Matmul, MatmulExperts};
use crate::ops::route::Route;
use crate::ops::sort_by_expert::SortByExpert;

impl Builder<'_> {
    /// What the experts of a layer make of `x`, with the layer that ends them.
    pub(super) fn experts<'s>(
        &mut self,
        layer: usize,
        experts: &Experts,
        sites: &'s [Site],
        x: ValueId,
    ) -> Result<(&'s Site, ValueId), ShapeError> {
        let of = |role: Role, of_all: bool| {
            let found = sites.iter().find(|site| site.has(role) && site.experts.is_some() == of_all);
            found.ok_or_else(|| ShapeError::new("model", "experts", "no layer", format!("one of {role:?}")))
        };
        let (gate, up, down) = (of(Role::Gate, true)?, of(Role::Up, true)?, of(Role::Down, true)?);
        let path = format!("layers.{layer}.{}", down.parent);
        let routers = layer_routers(self.architecture, layer);
        let router = |at: usize| routers.get(at).ok_or_else(|| ShapeError::new("model", "routers", at, "one more"));

        let logits = self.by_router(router(0)?, x)?;
        let route = Route { experts: experts.per_token, renormalised: experts.renormalised };
        let routed = self.graph.apply(route, &[logits], format!("{path}.route"))?;
        if self.balances() {
            let before = self.expert_shares.into_iter().flatten();
            let inputs: Vec<ValueId> = [logits, routed[1]].into_iter().chain(before).collect();
            let shares = self.graph.apply(ExpertShares, &inputs, format!("{path}.shares"))?;
            self.expert_shares = Some([shares[0], shares[1]]);
        }
        let order = self.graph.apply(SortByExpert { experts: experts.count }, &[routed[1]], format!("{path}.order"))?;
        let [rows, places, offsets] = [order[0], order[1], order[2]];

        let own = self.graph.apply_one(ToExperts, &[x, rows, places], format!("{path}.rows"))?;
        let mut gate_and_up = self.of_experts(gate, own, offsets)?;
        if up != gate {
            gate_and_up.extend(self.of_experts(up, own, offsets)?);
        }
        let inner = self.glu([gate_and_up[0], gate_and_up[1]], format!("{path}.glu"))?;
        let outputs = self.of_experts(down, inner, offsets)?[0];
        let mut sum = self.graph.apply_one(FromExperts, &[outputs, rows, places, routed[0]], format!("{path}.sum"))?;

        if experts.shared_intermediate_size.is_some() {
            let gate = self.linear(of(Role::Gate, false)?, x, 1.0, None)?[0];
            let up = self.linear(of(Role::Up, false)?, x, 1.0, None)?[0];
            let last = of(Role::Down, false)?;
            let inner = self.glu([gate, up], format!("layers.{layer}.{}.glu", last.parent))?;
            let output = self.linear(last, inner, 1.0, None)?[0];
            let logit = self.by_router(router(1)?, x)?;
            let name = format!("layers.{layer}.{}", last.parent);
            let gated = self.graph.apply_one(GateRows, &[output, logit], format!("{name}.gated"))?;
            sum = self.graph.apply_one(Add, &[sum, gated], format!("{path}.with_shared"))?;
        }
        Ok((down, sum))
    }

    /// What a router makes of `x`, by its own matrix and what the hook adds, or by what the hook has in the place of the matrix.
    fn by_router(&mut self, site: &Site, x: ValueId) -> Result<ValueId, ShapeError> {
        let name = site.name();
        let Some(adapted) = self.hook.router(&mut self.graph, &format!("{name}.weight")) else {
            return Ok(self.linear(site, x, 1.0, None)?[0]);
        };
        let product = self.part_of_the_way(&name, false, |model, product, is_adapted| {
            let weight = match is_adapted {
                true => adapted,
                false => model.matrix(&format!("model.{name}.weight"), &(0..site.out_features), true, site.in_features),
            };
            Matmul { layout: Layout::NT, scale: 1.0 }.append(&mut model.graph, [x, weight], None, product)
        })?;
        self.with_bias(site, 0, &(0..site.out_features), &name, product)
    }

    /// The layer of each expert on its own rows, what the hook adds, and the expert's own bias: of each tensor that the layer has.
    fn of_experts(&mut self, site: &Site, x: ValueId, offsets: ValueId) -> Result<Vec<ValueId>, ShapeError> {
        let (mut weights, mut outputs) = (Vec::new(), Vec::new());
        let tensors = site.tensors();
        for held in &tensors {
            let (name, tensor) = (&held.name, format!("model.{}.weight", held.name));
            if self.order_of(&tensor, site.in_features).is_some() {
                let found = "a matrix of which columns lie in an order of their own (act-order)";
                return Err(ShapeError::new("model", format!("experts {name}"), found, "one with columns in order"));
            }
            let weight = self.matrix(&tensor, &(0..site.matrices() * held.out_features()), true, site.in_features);
            let product = MatmulExperts { layout: Layout::NT, scale: 1.0 };
            outputs.push(self.graph.apply_one(product, &[x, weight, offsets], name)?);
            weights.push(weight);
        }
        let linear = Linear { site, x, offsets: Some(offsets), weights, order: None, factor: 1.0, outputs };
        let mut outputs = self.hook.after(&mut self.graph, linear)?;
        for (output, held) in outputs.iter_mut().zip(&tensors).filter(|_| site.bias) {
            let tensor = format!("model.{}.bias", held.name);
            let bias = self.vector_of_experts(tensor, site.matrices(), held.out_features());
            *output = self.graph.apply_one(AddExpertBias, &[*output, bias, offsets], format!("{}.bias", held.name))?;
        }
        Ok(outputs)
    }
}

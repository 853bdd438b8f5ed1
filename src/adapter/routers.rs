//! Routers of experts that are trained as a whole, as PEFT's `modules_to_save` does: a matrix in f32 in the place of the model's own.
//!
//! A name means every module that ends with it: `gate` is the router, and in Qwen 2 the gate of the shared expert too, whose name is
//! `shared_expert_gate`; `mlp.gate` is the router alone.

use super::AdapterMatrix;
use crate::architecture::{Architecture, Site, routers};
use crate::formats::peft::{AdapterConfig, module_path};
use crate::{Error, Result};

/// A router that the adapter has in the place of the model's.
#[derive(Clone, Debug, PartialEq)]
pub struct Router {
    /// `layers.3.mlp.gate.weight`
    pub name: String,
    pub layer: usize,
    /// `[experts, hidden_size]`
    pub shape: [usize; 2],
}

impl Router {
    /// As one of the adapter's matrices.
    pub fn matrix(&self) -> AdapterMatrix {
        AdapterMatrix::named(self.name.clone(), self.shape, true)
    }

    /// Is it this linear layer?
    pub fn is_of(&self, site: &Site) -> bool {
        self.name.strip_suffix(".weight") == Some(&site.name())
    }

    /// The model's tensor that it stands for.
    pub fn tensor(&self) -> String {
        format!("model.{}", self.name)
    }
}

/// The routers of this model that an adapter's configuration means.
///
/// # Errors
/// Bad input, at `place`: a name that no router ends with.
pub(super) fn of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Router>> {
    let all: Vec<Router> = routers(model)
        .iter()
        .map(|site| Router {
            name: format!("{}.weight", site.name()),
            layer: site.layer,
            shape: [site.out_features, site.in_features],
        })
        .collect();
    let module = |router: &Router| router.name.trim_end_matches(".weight").to_owned();
    let means = |saved: &str, router: &Router| module_path(&module(router), model.text_path).ends_with(saved);
    if let Some(saved) = adapter.routers_to_save().find(|saved| !all.iter().any(|router| means(saved, router))) {
        let problem = format!("`{saved}` of modules_to_save is the end of no router's name in this model");
        let proposal = match all.first() {
            Some(router) => format!("routers are such as {}", module(router)),
            None => "the model has no experts, and so no router: leave it out".to_owned(),
        };
        return Err(Error::bad_input(place, problem, proposal));
    }
    Ok(all.into_iter().filter(|router| adapter.routers_to_save().any(|saved| means(saved, router))).collect())
}

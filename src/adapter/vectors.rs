//! Vectors of the model that are trained as a whole, as PEFT does: weights of norms (`modules_to_save`, whose names mean every module that
//! ends with them) and biases of linear layers (`bias`: of all, or of the adapted ones).

use super::AdapterMatrix;
use crate::architecture::{Architecture, Site, parameters, sites};
use crate::formats::peft::{AdapterConfig, TrainedBiases, module_path};
use crate::{Error, Result};

/// A vector of the model's that the adapter has in its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Vector {
    /// `layers.3.input_layernorm.weight`, `norm.weight`, `layers.3.self_attn.q_proj.bias`.
    pub name: String,
    /// `None` for the last norm.
    pub layer: Option<usize>,
    /// Elements of the parts that the graph takes apart, where a layer fuses several; one part otherwise.
    parts: Vec<usize>,
}

impl Vector {
    /// The weight of a norm, `size` elements.
    fn norm(name: &str, layer: Option<usize>, size: usize) -> Self {
        Self { name: format!("{name}.weight"), layer, parts: vec![size] }
    }

    /// The bias of a linear layer, an element for each output.
    fn bias(site: &Site) -> Self {
        let parts = site.outputs.iter().map(|(_, rows)| *rows).collect();
        Self { name: format!("{}.bias", site.name()), layer: Some(site.layer), parts }
    }

    /// As one of the adapter's matrices.
    pub fn matrix(&self) -> AdapterMatrix {
        let shape = [self.parts.iter().sum(), 1];
        AdapterMatrix { vector: true, parts: self.parts.clone(), ..AdapterMatrix::named(self.name.clone(), shape, true) }
    }

    /// The model's tensor that it stands for.
    pub fn tensor(&self) -> String {
        format!("model.{}", self.name)
    }

    /// Whether it is the weight of a norm of each head, and not of a whole row.
    pub fn is_of_heads(&self) -> bool {
        self.name.ends_with("q_norm.weight") || self.name.ends_with("k_norm.weight")
    }
}

/// The vectors of this model that an adapter's configuration means.
///
/// # Errors
/// Bad input, at `place`: a name that no norm ends with.
pub(super) fn of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Vector>> {
    let mut vectors = norms_of_peft(place, adapter, model)?;
    let is_trained = |site: &Site| match adapter.bias {
        TrainedBiases::None => false,
        TrainedBiases::All => true,
        TrainedBiases::LoraOnly => adapter.adapts(site.layer, site.module, &site.name()),
    };
    vectors.extend(sites(model).iter().filter(|site| site.bias && is_trained(site)).map(Vector::bias));
    Ok(vectors)
}

fn norms_of_peft(place: &str, adapter: &AdapterConfig, model: &Architecture) -> Result<Vec<Vector>> {
    let all = parameters(model).into_iter().filter_map(|parameter| {
        let name = parameter.name.strip_prefix("model.")?.strip_suffix("norm.weight").map(|start| format!("{start}norm"))?;
        Some((name, parameter.layer, parameter.shape[0]))
    });
    let all: Vec<(String, Option<usize>, usize)> = all.collect();
    let means = |saved: &str, norm: &str| module_path(norm, model.text_path).ends_with(saved);
    if let Some(saved) = adapter.norms_to_save().find(|saved| !all.iter().any(|(norm, ..)| means(saved, norm))) {
        let names: Vec<&str> = all.iter().take(4).map(|(norm, ..)| norm.as_str()).collect();
        let problem = format!("`{saved}` of modules_to_save is the end of no norm's name in this model");
        return Err(Error::bad_input(place, problem, format!("norms are such as {}", names.join(", "))));
    }
    let meant = all.into_iter().filter(|(norm, ..)| adapter.norms_to_save().any(|saved| means(saved, norm)));
    Ok(meant.map(|(name, layer, size)| Vector::norm(&name, layer, size)).collect())
}

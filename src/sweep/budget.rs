//! The rank, or width of bottlenecks, that a fixed number of trained parameters leaves for a placement: few matrices get a high one, many a
//! low one.

use crate::adapter::Placement;
use crate::session::OpenModel;
use crate::train::ask::bottleneck::AdapterMethod;
use crate::train::options::Recipe;
use crate::train::prepare::placement_of;
use crate::{Error, Result};

/// The recipe with the largest rank or width that trains at most `budget` parameters, or why there is none.
///
/// # Errors
/// Bad input in the recipe itself.
pub fn sized(recipe: &Recipe, budget: usize, model: &OpenModel) -> Result<std::result::Result<Recipe, String>> {
    let is_lora = recipe.adapter_method.is_none_or(|method| method == AdapterMethod::Lora);
    let with = |size: usize| match is_lora {
        true => Recipe { lora_r: Some(size), ..recipe.clone() },
        false => Recipe { bottleneck_size: Some(size), ..recipe.clone() },
    };
    // Where it is written to makes no difference.
    let out = Some(recipe.out.clone().unwrap_or_default());
    let placement = |r: usize| -> Result<Placement> { placement_of(&Recipe { out: out.clone(), ..with(r) }.resolve()?, model) };
    let [one, two] = [placement(1)?, placement(2)?].map(|placement| placement.parameters());
    if two <= one {
        return Err(Error::bad_input(
            "budget",
            "the size of these adapters does not depend on their rank or width",
            "leave the budget out",
        ));
    }
    // Every method has so many numbers a rank, and perhaps some besides.
    let (each, besides) = (two - one, one.saturating_sub(two - one));
    let r = budget.saturating_sub(besides) / each;
    if r == 0 {
        let size = if is_lora { "rank" } else { "width" };
        return Ok(Err(format!("{size} 1 has {one} parameters, more than the budget of {budget}")));
    }
    if !is_lora {
        return Ok(Ok(with(r)));
    }
    let narrow =
        placement(1)?.pieces.into_iter().map(|piece| piece.site).min_by_key(|site| site.in_features.min(site.out_features));
    match narrow.map(|site| (site.in_features.min(site.out_features), site)) {
        Some((full, site)) if r > full => Ok(Err(format!(
            "the budget of {budget} would need rank {r}, and {} [{}, {}] can have no more than {full}",
            site.module, site.out_features, site.in_features
        ))),
        _ => Ok(Ok(with(r))),
    }
}

//! `/api/fuse`: the adapter beside the weights, and in them: the same logits but for rounding, both from the device.
//!
//! The merged weights are those of `graftling merge`, computed in f64 and rounded to f32. They pass through the device a layer at a time, so
//! that the proof needs the memory of one layer: the hidden states that leave a layer enter the next one as they are.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::lora::no_adapter;
use crate::architecture::{layer_routers, layer_sites, slice_name};
use crate::merge::Update;
use crate::model::graph::Part;
use crate::plan::Pinned;
use crate::session::probe::{LayerValues, Probe, Subject};
use crate::studio::look::{Look, most_probable, rows_for};
use crate::{Error, Result};

/// Tokens whose logits are given: the most probable ones.
const SHOWN: usize = 40;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub ids: Vec<u32>,
    /// Strength of the adapter, 0 to 2; left out: 1.
    pub adapter: Option<f64>,
}

/// Logits of the last token in two ways.
#[derive(Debug, Serialize)]
pub struct Fuse {
    /// The most probable tokens, the first first.
    pub ids: Vec<u32>,
    pub texts: Vec<String>,
    /// Their logits with the adapter beside the weights.
    pub unmerged: Vec<f32>,
    /// Their logits with the adapter in the weights.
    pub merged: Vec<f32>,
    /// Over the whole vocabulary.
    pub largest_difference: f64,
    /// The largest magnitude of a logit, to compare with.
    pub largest_logit: f64,
    /// Over the whole vocabulary, between the base model and the adapted one: what the adapter does.
    pub largest_effect: f64,
}

/// Both ways, for the last token of a text.
///
/// # Errors
/// Bad input: no adapter is open, or it is one that is no change of matrices alone; ids or strength out of range. Failed: the device has
/// not the memory of a layer in f32.
pub fn fuse(look: &mut Look, asked: &Asked) -> Result<Fuse> {
    look.check_ids(&asked.ids, asked.adapter)?;
    let folder = look.folder.ok_or_else(no_adapter)?;
    look.adapter(asked.adapter)?;
    let update = Update::load(&[(folder, 1.0)], look.session.config())?.at_strength(asked.adapter.unwrap_or(1.0));
    if update.sites().any(|site| site.experts.is_some()) {
        let proposal = "see what `graftling merge` makes of it, and compare with `graftling eval`";
        return Err(Error::bad_input("adapter", "adapts experts, which this view does not merge", proposal));
    }
    update.replaced.refuse_in("this view", "see what `graftling merge` makes of it")?;
    let (base, unmerged) = (look.logits(&asked.ids, Some(0.0))?, look.logits(&asked.ids, asked.adapter)?);
    let merged = merged(look, &update, &asked.ids)?;
    let distance = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from(a - b).abs()).fold(0.0, f64::max);
    let best = most_probable(&unmerged, SHOWN, 1.0);
    let ids: Vec<u32> = best.iter().map(|(id, _)| *id).collect();
    let of = |logits: &[f32]| ids.iter().map(|&id| logits[id as usize]).collect();
    Ok(Fuse {
        texts: ids.iter().map(|&id| look.text(id)).collect::<Result<_>>()?,
        unmerged: of(&unmerged),
        merged: of(&merged),
        largest_difference: distance(&unmerged, &merged),
        largest_logit: unmerged.iter().map(|logit| f64::from(logit.abs())).fold(0.0, f64::max),
        largest_effect: distance(&base, &unmerged),
        ids,
    })
}

/// The logits of the last token by weights with the update in them.
fn merged(look: &mut Look, update: &Update, ids: &[u32]) -> Result<Vec<f32>> {
    let (session, config) = (look.session, look.session.config());
    let mut hidden = look.embedded(ids, Some(0.0))?;
    for layer in 0..config.num_hidden_layers {
        (look.pause)("layers merged", layer as u64, config.num_hidden_layers as u64)?;
        let weights = merged_layer(look, update, layer)?;
        let subject = Subject { part: Part::Layer(layer), ..Subject::whole(None, rows_for(ids.len())) };
        let (mut probe, output) = Probe::forward_with(session, subject, &weights, |model| {
            let output = LayerValues::of(model, layer)?.output;
            Ok((vec![output], output))
        })?;
        probe.run_hidden(&hidden, ids.len(), &[])?;
        hidden = probe.read(output)?;
    }
    let last = &hidden[(ids.len() - 1) * config.hidden_size..];
    Ok(look.through_head(last, Some(0.0), <[f32]>::to_vec)?.concat())
}

/// The changed weights of a layer on the device, in f32.
fn merged_layer(look: &Look, update: &Update, layer: usize) -> Result<HashMap<String, Pinned>> {
    let tensors = &*look.model.files.tensors;
    let mut replaced = HashMap::new();
    let config = look.session.config();
    for site in layer_sites(config, layer).into_iter().chain(layer_routers(config, layer)) {
        let name = format!("model.{}.weight", site.name());
        if !update.changes(&name) {
            continue;
        }
        let (rows, columns) = (site.out_features, site.in_features);
        let mut values = vec![0.0_f32; rows * columns];
        tensors.read_rows_f32(&name, 0..rows, &mut values)?;
        let mut exact: Vec<f64> = values.iter().map(|&value| f64::from(value)).collect();
        update.put_into(&name, 0..rows, &mut exact);
        values.iter_mut().zip(exact).for_each(|(value, exact)| *value = exact as f32);
        let mut first = 0;
        for (_, part) in &site.outputs {
            let taken = first..first + part;
            let own = if site.outputs.len() == 1 { name.clone() } else { slice_name(&name, &taken) };
            let part = &values[taken.start * columns..taken.end * columns];
            replaced.insert(own.clone(), look.session.weights().send_matrix(&own, columns, part)?);
            first = taken.end;
        }
    }
    Ok(replaced)
}

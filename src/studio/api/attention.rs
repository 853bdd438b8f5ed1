//! `/api/attention`: what each head of a layer reads.
//!
//! The kernels never make the matrix of all scores, and keep the log-sum-exp of each row for the backward pass. So `p_ij` is computed here from
//! what the kernel read, q and k after norms and rotation, and the log-sum-exp that it gave: `p_ij = exp(cap(scale q_i . k_j) - lse_i)`. That
//! rows add up to 1 shows that the kernel and this page speak of the same scores.

use serde::{Deserialize, Serialize};

use crate::architecture::{Architecture, QueryKeyNorm, RopeOverride};
use crate::graph::Matrix;
use crate::model::graph::Part;
use crate::session::probe::{LayerValues, Probe, Subject};
use crate::studio::look::{Look, rows_for};
use crate::{Error, Result};

/// Positions by which a text is shifted at the most.
pub const MOST_SHIFT: usize = 1 << 20;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub ids: Vec<u32>,
    pub layer: usize,
    /// Strength of the adapter, 0 to 2; left out: 1.
    pub adapter: Option<f64>,
    /// Another rotation than the model's.
    #[serde(default)]
    pub rope: Dial,
}

/// What of the rotation is another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dial {
    /// Position of the first token, left out: 0. Rotations are relative: nothing changes but rounding.
    pub shift: Option<usize>,
    /// `rope_theta`.
    pub base: Option<f64>,
    /// As `--rope-scaling`: `none`, `linear:2`, `yarn:4`, `llama3:8`.
    pub scaling: Option<RopeOverride>,
}

/// The heads of a layer.
#[derive(Debug, Serialize)]
pub struct Heads {
    pub heads: Vec<Head>,
    /// Tokens that a token sees at the most, itself included; `None`: all before it.
    pub window: Option<usize>,
    /// By what products of query and key are multiplied.
    pub scale: f64,
    /// The bound that scores are bent towards.
    pub softcap: Option<f64>,
    /// Whether the layer rotates query and key.
    pub rotated: bool,
    /// Whether it brings them to one length before.
    pub normed: bool,
}

#[derive(Debug, Serialize)]
pub struct Head {
    pub head: usize,
    /// The key/value head that it shares with others of its group.
    pub kv_head: usize,
    /// Row i has what token i reads of the tokens 0 to i.
    pub rows: Vec<Vec<f32>>,
}

/// The patterns of a layer.
///
/// # Errors
/// Bad input: ids, layer, strength or dial out of range. Failed: the device has not the memory.
pub fn attention(look: &mut Look, asked: &Asked) -> Result<Heads> {
    look.check_ids(&asked.ids, asked.adapter)?;
    look.check_layer(asked.layer)?;
    let adapter = look.adapter(asked.adapter)?;
    let rotation = rotated(look.session.config(), asked)?;
    let dialled;
    let (probe, layer) = match &rotation {
        None => {
            let ready = look.layer(asked.layer, &asked.ids, asked.adapter)?;
            (&ready.probe, ready.layer()?)
        }
        // Another rotation is that of all layers.
        Some(_) => {
            let subject = Subject {
                rotation: rotation.as_ref(),
                first_position: asked.rope.shift.unwrap_or(0),
                part: Part::Below(asked.layer + 1),
                ..Subject::whole(adapter.as_ref(), rows_for(asked.ids.len()))
            };
            let (mut probe, layer) = Probe::forward(look.session, subject, |model| {
                let layer = LayerValues::of(model, asked.layer)?;
                Ok((vec![layer.query, layer.key, layer.lse], layer))
            })?;
            probe.run(&asked.ids, &[])?;
            dialled = probe;
            (&dialled, layer)
        }
    };
    let matrix = |value| -> Result<Matrix> {
        let values = probe.read(value)?;
        let shape = [asked.ids.len(), values.len() / asked.ids.len()];
        Ok(Matrix::new(shape, values.into_iter().map(f64::from).collect()))
    };
    let (query, key, lse) = (matrix(layer.query)?, matrix(layer.key)?, matrix(layer.lse)?);
    let heads = layer.attention.0;
    let head = |head: usize| Head {
        head,
        kv_head: head / heads.group(),
        rows: heads
            .pattern(&query, &key, &lse, head)
            .into_iter()
            .map(|row| row.into_iter().map(|p| p as f32).collect())
            .collect(),
    };
    Ok(Heads {
        heads: (0..heads.heads).map(head).collect(),
        window: heads.window,
        scale: heads.scale,
        softcap: heads.softcap,
        rotated: look.session.config().layers[asked.layer].rope.is_some(),
        normed: look.session.config().query_key_norm != QueryKeyNorm::None,
    })
}

/// The model with the rotation that is asked for; `None` for its own.
fn rotated(config: &Architecture, asked: &Asked) -> Result<Option<Architecture>> {
    let Dial { shift, base, scaling } = asked.rope;
    if asked.rope == Dial::default() {
        return Ok(None);
    }
    let bad = |what: &str, problem: String, proposal: &str| Err(Error::bad_input(format!("rope.{what}"), problem, proposal));
    let Some(rope) = config.layers[asked.layer].rope else {
        let problem = format!("layer {} does not rotate query and key", asked.layer);
        return bad("shift", problem, "ask about another layer, or leave rope out");
    };
    if let Some(shift) = shift.filter(|&shift| shift > MOST_SHIFT) {
        return bad("shift", format!("{shift} positions"), "give 0 to 1048576");
    }
    if let Some(base) = base.filter(|base| !(base.is_finite() && (1.0..=1e12).contains(base))) {
        return bad("base", format!("{base} is no base of a rotation"), "give a number from 1 to 1e12, such as 10000");
    }
    let mut other = config.clone();
    if let Some(scaling) = scaling {
        if rope != 0 {
            let problem =
                format!("the heads of layer {} look no further than their window, and keep their rotation", asked.layer);
            return bad("scaling", problem, "ask about a layer without a window");
        }
        other.override_rope(scaling);
    }
    if let Some(base) = base {
        other.ropes[rope].theta = base;
    }
    other.check("rope")?;
    Ok(Some(other))
}

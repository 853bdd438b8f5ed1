//! `/api/embedding`: what enters the first layer, and the angles by which positions are told.

use serde::{Deserialize, Serialize};

use crate::Result;
use crate::studio::look::{Look, norm};

/// Numbers of each vector that are given.
pub const SHOWN: usize = 64;

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Asked {
    pub ids: Vec<u32>,
}

/// A text as vectors.
#[derive(Debug, Serialize)]
pub struct Embedding {
    /// The first [`SHOWN`] numbers of each token's vector, as it enters the first layer.
    pub vectors: Vec<Vec<f32>>,
    /// Euclidean lengths of the whole vectors.
    pub norms: Vec<f64>,
    /// Numbers of a whole vector.
    pub width: usize,
    /// By what the rows of the matrix were multiplied to give the vectors.
    pub multiplier: f64,
    /// The rotation of the lowest layer that has one.
    pub rope: Option<Rope>,
}

#[derive(Debug, Serialize)]
pub struct Rope {
    pub base: f64,
    /// Layers that turn by it.
    pub layers: usize,
    /// Bases of the rotations of other layers.
    pub others: Vec<f64>,
    /// Radians a position, of each pair of features.
    pub frequencies: Vec<f64>,
    /// Of each token, in radians.
    pub angles: Vec<Vec<f64>>,
}

/// The embeddings of a text.
///
/// # Errors
/// Bad input: ids out of range. Failed: the device has not the memory.
pub fn embedding(look: &mut Look, asked: &Asked) -> Result<Embedding> {
    look.check_ids(&asked.ids, None)?;
    let config = look.session.config();
    let values = look.embedded(&asked.ids, None)?;
    let rows = || values.chunks(config.hidden_size);
    let rotation = config.layers.iter().find_map(|layer| layer.rope).map(|lowest| {
        let rope = &config.ropes[lowest];
        let layers = config.layers.iter().filter(|layer| layer.rope == Some(lowest)).count();
        let others = (0..config.ropes.len()).filter(|&other| other != lowest);
        let others = others.filter(|&other| config.layers.iter().any(|layer| layer.rope == Some(other)));
        let others = others.map(|other| config.ropes[other].theta).collect();
        let frequencies = rope.inverse_frequencies(asked.ids.len());
        let angles = |position: usize| frequencies.iter().map(|frequency| position as f64 * frequency).collect();
        Rope { base: rope.theta, layers, others, angles: (0..asked.ids.len()).map(angles).collect(), frequencies }
    });
    Ok(Embedding {
        vectors: rows().map(|row| row[..SHOWN.min(row.len())].to_vec()).collect(),
        norms: rows().map(norm).collect(),
        width: config.hidden_size,
        multiplier: config.embedding_multiplier,
        rope: rotation,
    })
}

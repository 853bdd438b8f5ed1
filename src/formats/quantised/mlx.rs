//! MLX's affine quantisation (`mlx.core.quantize`, as mlx-lm converts models): `w = scales q + biases` for groups of columns.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.weight | U32 `[out, in bits / 32]` | codes of 2 to 8 bits, packed along the input |
//! | X.scales, X.biases | `[out, groups]` in the model's type | |
//!
//! Layers, embedding and output matrix alike. `quantization` in config.json gives bits and group size, and those of single modules by
//! their paths.

use serde_json::Value;

use super::grouped::{Description, Shift};
use super::packed::{Axis, Packed, Values};
use super::{Matrix, Scheme};
use crate::Result;
use crate::formats::stored::Stored;

pub(super) fn check(scheme: &Scheme) -> Result<()> {
    scheme.one_of("mode", &["affine"])?;
    for (module, own) in scheme.settings.as_object().into_iter().flatten() {
        if let Some(mode) = own.get("mode").and_then(Value::as_str).filter(|mode| *mode != "affine") {
            return Err(scheme.bad(module, format!("has mode {mode}; of MLX, graftling reads affine quantisation")));
        }
    }
    Ok(())
}

pub(super) fn find(scheme: &Scheme, stored: &Stored) -> Result<Vec<Matrix>> {
    let mut matrices = Vec::new();
    for (name, entry) in stored.entries() {
        let Some(module) = name.strip_suffix(".weight").filter(|module| stored.get(&format!("{module}.scales")).is_some()) else {
            continue;
        };
        let part = |own: &str| format!("{module}.{own}");
        scheme.words(stored, name)?;
        // A path of a model that has other parts as well, as text has it by itself.
        let inside = module.strip_prefix("model.").unwrap_or(module);
        let paths = [module.to_owned(), format!("language_model.{module}"), format!("model.language_model.{inside}")];
        let own = paths.iter().find_map(|path| scheme.settings.get(path)).filter(|own| own.is_object());
        let group = own.and_then(|own| own.get("group_size")).and_then(Value::as_u64).map(|group| group as i64);
        let group = group.or_else(|| scheme.number("group_size")).filter(|group| *group > 0).unwrap_or(64) as usize;
        let scales = Values::of(scheme, stored, &part("scales"), Axis::First)?;
        let offsets = Values::of(scheme, stored, &part("biases"), Axis::First)?;
        let [rows, groups] = scales.size();
        let columns = groups.saturating_mul(group);
        let bits = entry.row_values().saturating_mul(32) / columns.max(1);
        if !matches!(bits, 2..=6 | 8) || entry.row_values().saturating_mul(32) != bits * columns {
            let problem = format!("has shape {:?}, which is none of 2 to 8 bits for {groups} groups of {group}", entry.shape);
            return Err(scheme.bad_part(stored, name, problem));
        }
        let codes = Packed { entry: entry.clone(), bits, rows: Axis::First, along: Axis::Last, places: None };
        let description = Description {
            name: name.to_owned(),
            parts: vec![name.to_owned(), part("scales"), part("biases")],
            shift: Shift::Offsets(offsets),
            codes,
            scales,
            rows,
            columns,
            group,
            group_of: None,
        };
        matrices.push(description.matrix(stored)?);
    }
    Ok(matrices)
}

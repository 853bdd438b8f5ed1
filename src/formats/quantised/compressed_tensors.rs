//! compressed-tensors, as llm-compressor writes models (and vLLM reads them), in two of its forms.
//!
//! `pack-quantized`: `w = scale (q - z)`, with q and z stored as whole numbers from 0 on.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.weight_packed | I32 `[out, in bits / 32]` | codes of 4 or 8 bits, packed along the input |
//! | X.weight_scale | `[out, groups]` in the model's type | |
//! | X.weight_zero_point | I32 `[out bits / 32, groups]` | packed along the output; where there is none, half of the codes are negative |
//! | X.weight_shape | I64 `[2]` | out, in |
//! | X.weight_g_idx | I32 `[in]` | the group of each column, where they were quantised by activation |
//!
//! `float-quantized`, and `naive-quantized` where that is of floats: FP8, see [`super::fp8`].

use serde_json::Value;

use super::grouped::{Description, Shift};
use super::packed::{Axis, Packed, Values};
use super::{Matrix, Scheme, fp8};
use crate::Result;
use crate::formats::stored::Stored;

pub(super) fn check(scheme: &Scheme) -> Result<()> {
    scheme.one_of("format", &["pack-quantized", "float-quantized", "naive-quantized", "mixed-precision"])?;
    scheme.one_of("quantization_status", &["compressed"])?;
    let groups = scheme.settings.get("config_groups").and_then(Value::as_object);
    for (name, group) in groups.into_iter().flatten() {
        let form = group.get("format").and_then(Value::as_str).or(scheme.text("format")).unwrap_or_default();
        if !matches!(form, "" | "pack-quantized" | "float-quantized" | "naive-quantized" | "mixed-precision") {
            return Err(scheme.bad(name, format!("has format {form}; graftling reads pack-quantized and float-quantized")));
        }
        let Some(weights) = group.get("weights").filter(|weights| !weights.is_null()) else { continue };
        let (bits, float) = (weights.get("num_bits").and_then(Value::as_u64), weights.get("type").and_then(Value::as_str));
        let is_int = matches!((bits, float), (Some(4 | 8), Some("int") | None)) && form != "naive-quantized";
        if !is_int && (bits, float) != (Some(8), Some("float")) {
            let problem =
                format!("has weights of {bits:?} bits ({float:?}); graftling reads whole numbers of 4 and 8 bits, and FP8");
            return Err(scheme.bad(name, problem.replace("Some(", "").replace(')', "")));
        }
    }
    Ok(())
}

pub(super) fn find(scheme: &Scheme, stored: &Stored) -> Result<Vec<Matrix>> {
    let mut matrices = fp8::find(scheme, stored)?;
    for (name, entry) in stored.entries() {
        let Some(module) = name.strip_suffix(".weight_packed") else { continue };
        let part = |own: &str| format!("{module}.weight_{own}");
        scheme.words(stored, name)?;
        let shape = scheme.part(stored, &part("shape"))?;
        let sizes: Vec<usize> = match shape.kind.as_str() {
            "I64" if shape.bytes() == 16 => {
                let size = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |size, byte| size << 8 | u64::from(*byte)) as usize;
                stored.read(shape, 0..16)?.chunks_exact(8).map(size).collect()
            }
            _ => Vec::new(),
        };
        let &[rows, columns] = sizes.as_slice() else {
            return Err(scheme.bad_part(stored, &part("shape"), "is not two whole numbers in I64".to_owned()));
        };
        let bits = entry.row_values().saturating_mul(32) / columns.clamp(1, 1 << 40);
        let bits = if bits >= 8 { 8 } else { 4 };
        let codes = Packed { entry: entry.clone(), bits, rows: Axis::First, along: Axis::Last, places: None };
        let scales = Values::of(scheme, stored, &part("scale"), Axis::First)?;
        let mut parts = vec![name.to_owned(), part("scale"), part("shape")];
        let shift = match stored.get(&part("zero_point")) {
            Some(_) => {
                parts.push(part("zero_point"));
                let entry = scheme.words(stored, &part("zero_point"))?.clone();
                let packed = Packed { entry, bits, rows: Axis::First, along: Axis::First, places: None };
                Shift::Zeros { packed, one_less: false }
            }
            None => Shift::Zero(1 << (bits - 1)),
        };
        let group_of = scheme.groups_of_columns(stored, part("g_idx"), &mut parts)?;
        let groups = scales.size()[1].max(1);
        let group = columns.div_ceil(groups);
        let name = format!("{module}.weight");
        let description = Description { name, parts, codes, scales, shift, rows, columns, group, group_of };
        matrices.push(description.matrix(stored)?);
    }
    Ok(matrices)
}

//! GPTQ (Frantar et al. 2022), as AutoGPTQ and GPTQModel write it: `w[o, i] = scales[g, o] (q[i, o] - z[g, o])` with g the group of column i.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.qweight | I32 `[in bits / 32, out]` | codes, packed along the input |
//! | X.qzeros | I32 `[groups, out bits / 32]` | zero points, packed along the output; in the first form of checkpoints one less |
//! | X.scales | F16 `[groups, out]` | |
//! | X.g_idx | I32 `[in]` | the group of each column; in the order of columns, unless they were quantised by activation (`desc_act`) |
//!
//! Bits and groups of each layer are those of its tensors, since GPTQModel can set them by layer (`dynamic`).

use super::grouped::{Description, Shift};
use super::packed::{Axis, Packed, Values};
use super::{Matrix, Scheme};
use crate::Result;
use crate::formats::stored::Stored;

/// Refuses what other kernels want laid out in another way.
pub(super) fn check(scheme: &Scheme) -> Result<()> {
    for key in ["checkpoint_format", "format"] {
        scheme.one_of(key, &["gptq", "gptq_v2"])?;
    }
    scheme.one_of("pack_dtype", &["int32"])?;
    scheme.off("is_marlin_format")?;
    scheme.off("rotation")?;
    scheme.off("adapter")?;
    match scheme.number("bits") {
        None | Some(2 | 3 | 4 | 8) => Ok(()),
        Some(bits) => Err(scheme.bad("bits", format!("is {bits}; of GPTQ, graftling reads 2, 3, 4 and 8 bits"))),
    }
}

pub(super) fn find(scheme: &Scheme, stored: &Stored) -> Result<Vec<Matrix>> {
    let second_form = ["checkpoint_format", "format"].iter().any(|key| scheme.text(key) == Some("gptq_v2"));
    let mut matrices = Vec::new();
    for (name, entry) in stored.entries() {
        let Some(module) = name.strip_suffix(".qweight") else { continue };
        let part = |own: &str| format!("{module}.{own}");
        let zeros = scheme.words(stored, &part("qzeros"))?;
        scheme.words(stored, name)?;
        let rows = entry.row_values();
        let bits = zeros.row_values().saturating_mul(32) / rows.max(1);
        if !matches!(bits, 2 | 3 | 4 | 8) {
            let problem = format!("is for codes of {bits} bits; of GPTQ, graftling reads 2, 3, 4 and 8");
            return Err(scheme.bad_part(stored, &part("qzeros"), problem));
        }
        let codes = Packed { entry: entry.clone(), bits, rows: Axis::Last, along: Axis::First, places: None };
        let scales = Values::of(scheme, stored, &part("scales"), Axis::Last)?;
        let [_, columns] = codes.size().unwrap_or_default();
        let groups = scales.size()[1].max(1);
        // The last group may be smaller.
        let group = match scheme.number("group_size") {
            Some(group) if group > 0 && columns.div_ceil(group as usize) == groups => group as usize,
            _ => columns.div_ceil(groups),
        };
        let zeros = Packed { entry: zeros.clone(), bits, rows: Axis::Last, along: Axis::Last, places: None };
        let mut parts = vec![name.to_owned(), part("qzeros"), part("scales")];
        let group_of = scheme.groups_of_columns(stored, part("g_idx"), &mut parts)?;
        let shift = Shift::Zeros { packed: zeros, one_less: !second_form };
        let name = format!("{module}.weight");
        let description = Description { name, parts, codes, scales, shift, rows, columns, group, group_of };
        matrices.push(description.matrix(stored)?);
    }
    Ok(matrices)
}

//! AWQ (Lin et al. 2023) in the form for matrix products (`gemm`), as AutoAWQ and GPTQModel write it: `w[o, i] = scales[g, o] (q[i, o] - z[g, o])`.
//!
//! | tensor | | |
//! |---|---|---|
//! | X.qweight | I32 `[in, out / 8]` | codes of 4 bits, packed along the output, the columns of a word in the order 0 2 4 6 1 3 5 7 |
//! | X.qzeros | I32 `[groups, out / 8]` | zero points in the same order |
//! | X.scales | F16 `[groups, out]` | |

use super::grouped::{Description, Shift};
use super::packed::{Axis, Packed, Values};
use super::{Matrix, Scheme};
use crate::Result;
use crate::formats::stored::Stored;

/// Where the eight codes of a word lie in it: the inverse of the order above.
const PLACES: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

pub(super) fn check(scheme: &Scheme) -> Result<()> {
    for key in ["version", "format", "checkpoint_format"] {
        scheme.one_of(key, &["gemm", "GEMM"])?;
    }
    for key in ["bits", "w_bit"] {
        if let Some(bits) = scheme.number(key).filter(|bits| *bits != 4) {
            return Err(scheme.bad(key, format!("is {bits}; of AWQ, graftling reads 4 bits")));
        }
    }
    Ok(())
}

pub(super) fn find(scheme: &Scheme, stored: &Stored) -> Result<Vec<Matrix>> {
    let mut matrices = Vec::new();
    for (name, _) in stored.entries() {
        let Some(module) = name.strip_suffix(".qweight") else { continue };
        let part = |own: &str| format!("{module}.{own}");
        let packed = |name: &str| -> Result<Packed> {
            let entry = scheme.words(stored, name)?.clone();
            Ok(Packed { entry, bits: 4, rows: Axis::Last, along: Axis::Last, places: Some(PLACES) })
        };
        let codes = packed(name)?;
        let zeros = packed(&part("qzeros"))?;
        let scales = Values::of(scheme, stored, &part("scales"), Axis::Last)?;
        let ([rows, columns], groups) = (codes.size().unwrap_or_default(), scales.size()[1].max(1));
        let description = Description {
            name: format!("{module}.weight"),
            parts: vec![name.to_owned(), part("qzeros"), part("scales")],
            shift: Shift::Zeros { packed: zeros, one_less: false },
            codes,
            scales,
            rows,
            columns,
            group: columns.div_ceil(groups),
            group_of: None,
        };
        matrices.push(description.matrix(stored)?);
    }
    Ok(matrices)
}

//! Kernels that read a frozen weight: *algorithm x format*. An algorithm is a kernel but for the loader of the weight's format, and is
//! composed with that of each format on demand.

use super::Kernel;
use crate::storage::DType;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex, PoisonError};

/// A kernel with an empty slot `weights`.
#[derive(Debug)]
pub struct Algorithm {
    /// The kernel but for the slot; its name lacks that of the format.
    pub kernel: Kernel,
    pub loads: Loads,
}

/// Against which loader of a format an algorithm is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Loads {
    /// Elements.
    Elements,
    /// Elements, of 8 bytes a component where they are numbers by themselves: for CPU drivers.
    WideElements,
    /// Blocks, in subgroups of exactly 8, as with the next two.
    Blocks,
    /// Blocks whose codes have 5 bits at the most.
    BlocksOfFewBits,
    /// Blocks whose codes have 6 or 8 bits.
    BlocksOfManyBits,
}

impl Loads {
    /// What fills the slots of an algorithm for this format; `None` for one without such blocks as the algorithm takes.
    fn slots(self, format: DType) -> Option<Vec<(&'static str, &'static str)>> {
        let stem = |suffix: &str| -> &'static str { format!("weights_{format}{suffix}").leak() };
        let blocks = |words: &'static str| {
            let mut slots = match format {
                DType::Affine(affine) => {
                    let [loader, heads, scales] = affine.parts();
                    vec![("weights", loader), ("heads", heads), ("scales", scales)]
                }
                _ => vec![("weights", stem(""))],
            };
            slots.push(("words", words));
            slots.extend(self.table(format).map(|table| ("table", table)));
            slots
        };
        match (self, format.block() > 1) {
            _ if format == DType::U32 => None,
            (Self::Elements, false) => Some(vec![("weights", stem(""))]),
            (Self::WideElements, false) => Some(vec![("weights", stem("_wide"))]),
            (Self::Elements | Self::WideElements, true) => Some(blocks("words_plain")),
            (Self::Blocks, true) => Some(blocks("words_wide")),
            (Self::BlocksOfFewBits, true) => (!has_many_bits(format)).then(|| blocks("words_wide")),
            (Self::BlocksOfManyBits, true) => has_many_bits(format).then(|| blocks("words_wide")),
            (Self::Blocks | Self::BlocksOfFewBits | Self::BlocksOfManyBits, false) => None,
        }
    }

    /// The part that looks up what codes number; `None` where a kernel has no slot for it.
    fn table(self, format: DType) -> Option<&'static str> {
        let by_choices = match format {
            DType::NF4 => Some("table_tree"),
            DType::FP4 => Some("table_signed"),
            DType::IQ4_NL | DType::IQ4_XS | DType::MXFP4 => Some("byte_table"),
            _ => None,
        };
        match self {
            Self::Elements | Self::WideElements => by_choices,
            Self::Blocks | Self::BlocksOfFewBits | Self::BlocksOfManyBits => {
                Some(if by_choices.is_some() { "table_lanes" } else { "no_table" })
            }
        }
    }
}

/// Of a format in blocks: are codes and what belongs to them more than 6 bits a value? Then eight blocks are more than a lane can hold in registers.
fn has_many_bits(format: DType) -> bool {
    8 * format.block_bytes() > 6 * format.block()
}

impl Algorithm {
    /// The kernel that reads weights in this format, the same one for every call; `None` if the algorithm is not made for it.
    pub fn with(&'static self, format: DType) -> Option<&'static Kernel> {
        static COMPOSED: LazyLock<Mutex<HashMap<(&'static str, DType), &'static Kernel>>> = LazyLock::new(Mutex::default);
        let mut composed = COMPOSED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = composed.get(&(self.kernel.name, format)) {
            return Some(kernel);
        }
        // A kernel lives as long as the program, and there are only as many as algorithms times formats.
        let slots = [self.kernel.slots.to_vec(), self.loads.slots(format)?].concat();
        let name = format!("{}_{format}", self.kernel.name);
        let kernel = Box::leak(Box::new(Kernel { name: name.leak(), slots: slots.leak(), ..self.kernel.clone() }));
        composed.insert((self.kernel.name, format), kernel);
        Some(kernel)
    }

    /// Its kernels for all formats that it takes.
    pub fn kernels(&'static self) -> impl Iterator<Item = &'static Kernel> {
        DType::WEIGHTS.into_iter().filter_map(|format| self.with(format))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::Affine;

    /// Each format in blocks is of one of the two kinds: codes of up to 5 bits, and of 6 and 8.
    #[test]
    fn formats_in_blocks_are_told_apart_by_their_bits() {
        let (int8, int6) = (DType::Affine(Affine::INT8_64), DType::Affine(Affine::INT6_32_BF16));
        let many = [DType::FP8_E4M3, DType::Q8_0, DType::LLM_INT8, int8, DType::Q6_K, int6];
        for format in DType::WEIGHTS {
            let takes = [Loads::BlocksOfFewBits, Loads::BlocksOfManyBits].map(|loads| loads.slots(format).is_some());
            let has_blocks = format.block() > 1;
            assert_eq!(takes, [has_blocks && !many.contains(&format), many.contains(&format)], "{format}");
        }
        for &affine in Affine::ALL {
            assert_eq!(has_many_bits(DType::Affine(affine)), affine.bits() > 5, "{}", DType::Affine(affine));
        }
    }
}

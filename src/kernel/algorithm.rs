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
    /// Blocks whose codes fit four words.
    BlocksOfFourWords,
    /// Blocks whose codes have 8 bits, and so fill eight words.
    BlocksOfEightWords,
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
            (Self::BlocksOfFourWords, true) => (!fills_eight_words(format)).then(|| blocks("words_wide")),
            (Self::BlocksOfEightWords, true) => fills_eight_words(format).then(|| blocks("words_wide")),
            (Self::Blocks | Self::BlocksOfFourWords | Self::BlocksOfEightWords, false) => None,
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
            Self::Blocks | Self::BlocksOfFourWords | Self::BlocksOfEightWords => {
                Some(if by_choices.is_some() { "table_lanes" } else { "no_table" })
            }
        }
    }
}

/// Of a format in blocks: are its codes loaded by `codes_8bit`?
fn fills_eight_words(format: DType) -> bool {
    match format {
        DType::Affine(affine) => affine.bits() == 8,
        _ => matches!(format, DType::Q8_0 | DType::LLM_INT8 | DType::FP8_E4M3),
    }
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
    use crate::kernel::{Needs, shader};

    /// By what the loaders themselves say, each format in blocks is of one of the two kinds.
    #[test]
    fn formats_in_blocks_are_told_apart_by_the_words_of_their_codes() {
        for format in DType::WEIGHTS.into_iter().filter(|format| format.block() > 1) {
            let [four, eight] = [Loads::BlocksOfFourWords, Loads::BlocksOfEightWords].map(|loads| loads.slots(format));
            assert!(four.is_some() != eight.is_some(), "{format}");
            let is_of_eight = eight.is_some();
            let slots =
                [vec![("activations", "activations_f32_wide"), ("product", "whole_product"), ("low_rank", "no_low_rank")]]
                    .into_iter()
                    .chain(four)
                    .chain(eight)
                    .flatten()
                    .collect::<Vec<_>>();
            let kernel = Kernel {
                name: "planted",
                shader: "matmul_subgroup8_blocks_by_k",
                slots: slots.leak(),
                constants: &[],
                params: &[],
                needs: Needs::NONE,
                unchecked: false,
            };
            assert_eq!(shader::files(&kernel).unwrap().contains(&"codes_8bit"), is_of_eight, "{format}");
        }
    }
}

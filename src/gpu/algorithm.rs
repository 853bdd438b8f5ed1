//! Kernels that read a frozen weight: *algorithm x format*. An algorithm is a kernel but for the loader of the weight's format, and is
//! composed with that of each format on demand.

use super::kernel::Kernel;
use super::lock;
use crate::graph::DType;
use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

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
    /// Blocks, of which a lane takes a few codes at a time.
    Blocks,
    /// Blocks, of which a lane takes all codes at once.
    WholeBlocks,
}

impl Loads {
    /// The part that loads this format; `None` for one without blocks where the algorithm takes blocks.
    fn part(self, format: DType) -> Option<&'static str> {
        let is_block = format.block() > 1;
        let wide = match self {
            Self::Elements => false,
            Self::WideElements => !is_block,
            Self::Blocks if is_block => false,
            Self::WholeBlocks if is_block => true,
            Self::Blocks | Self::WholeBlocks => return None,
        };
        match format {
            DType::U32 => None,
            DType::F32 => Some(if wide { "weights_f32_wide" } else { "weights_f32" }),
            DType::BF16 => Some(if wide { "weights_bf16_wide" } else { "weights_bf16" }),
            DType::F16 => Some(if wide { "weights_f16_wide" } else { "weights_f16" }),
            DType::Q8_0 => Some(if wide { "weights_q8_0_wide" } else { "weights_q8_0" }),
            DType::Q4_1 => Some(if wide { "weights_q4_1_wide" } else { "weights_q4_1" }),
        }
    }
}

impl Algorithm {
    /// The kernel that reads weights in this format, the same one for every call; `None` if the algorithm is not made for it.
    pub fn with(&'static self, format: DType) -> Option<&'static Kernel> {
        static COMPOSED: LazyLock<Mutex<HashMap<(&'static str, DType), &'static Kernel>>> = LazyLock::new(Mutex::default);
        let part = self.loads.part(format)?;
        Some(*lock(&COMPOSED).entry((self.kernel.name, format)).or_insert_with(|| {
            // A kernel lives as long as the program, and there are only as many as algorithms times formats.
            let slots = [self.kernel.slots, &[("weights", part)]].concat();
            let name = format!("{}_{format}", self.kernel.name);
            Box::leak(Box::new(Kernel { name: name.leak(), slots: slots.leak(), ..self.kernel.clone() }))
        }))
    }

    /// Its kernels for all formats that it takes.
    pub fn kernels(&'static self) -> impl Iterator<Item = &'static Kernel> {
        DType::WEIGHTS.into_iter().filter_map(|format| self.with(format))
    }
}

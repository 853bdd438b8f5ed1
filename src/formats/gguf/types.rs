//! ggml's numeric types: those that graftling reads, and the sizes of those that it can only name.

use crate::storage::DType;

/// A numeric type of a GGUF tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GgmlType {
    id: u32,
    name: &'static str,
    block_values: usize,
    block_bytes: usize,
}

/// `(id, name, values a block, bytes a block)` from ggml's `enum ggml_type` and `ggml-common.h`; missing ids were removed.
const TYPES: &[(u32, &str, usize, usize)] = &[
    (0, "F32", 1, 4),
    (1, "F16", 1, 2),
    (2, "Q4_0", 32, 18),
    (3, "Q4_1", 32, 20),
    (6, "Q5_0", 32, 22),
    (7, "Q5_1", 32, 24),
    (8, "Q8_0", 32, 34),
    (9, "Q8_1", 32, 36),
    (10, "Q2_K", 256, 84),
    (11, "Q3_K", 256, 110),
    (12, "Q4_K", 256, 144),
    (13, "Q5_K", 256, 176),
    (14, "Q6_K", 256, 210),
    (15, "Q8_K", 256, 292),
    (16, "IQ2_XXS", 256, 66),
    (17, "IQ2_XS", 256, 74),
    (18, "IQ3_XXS", 256, 98),
    (19, "IQ1_S", 256, 50),
    (20, "IQ4_NL", 32, 18),
    (21, "IQ3_S", 256, 110),
    (22, "IQ2_S", 256, 82),
    (23, "IQ4_XS", 256, 136),
    (24, "I8", 1, 1),
    (25, "I16", 1, 2),
    (26, "I32", 1, 4),
    (27, "I64", 1, 8),
    (28, "F64", 1, 8),
    (29, "IQ1_M", 256, 56),
    (30, "BF16", 1, 2),
    (34, "TQ1_0", 256, 54),
    (35, "TQ2_0", 256, 66),
    (39, "MXFP4", 32, 17),
    (40, "NVFP4", 64, 36),
];

impl GgmlType {
    pub fn from_id(id: u32) -> Option<Self> {
        let &(id, name, block_values, block_bytes) = TYPES.iter().find(|entry| entry.0 == id)?;
        Some(Self { id, name, block_values, block_bytes })
    }

    /// What ggml calls a format that graftling reads; `None` for those of other libraries (NF4).
    pub fn of_dtype(dtype: DType) -> Option<Self> {
        TYPES.iter().find(|entry| entry.1 == dtype.name()).and_then(|entry| Self::from_id(entry.0))
    }

    /// What stands for it in a file.
    pub fn id(self) -> u32 {
        self.id
    }

    /// ggml's name: `Q4_K`.
    pub fn name(self) -> &'static str {
        self.name
    }

    /// Values in a block: a row has a whole number of blocks.
    pub fn block_values(self) -> usize {
        self.block_values
    }

    /// Bytes of a block.
    pub fn block_bytes(self) -> usize {
        self.block_bytes
    }

    /// The format, if graftling reads this type.
    pub fn dtype(self) -> Option<DType> {
        DType::of_name(self.name)
    }
}

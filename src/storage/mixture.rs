//! Which format each matrix of a file gets when a model is written as `Q4_K_M`, `Q5_K_M`, ...: the rule of llama.cpp's `llama-quantize`
//! (`llama_tensor_get_type`), so that a file holds what its name makes people expect.

use super::DType;
use clap::ValueEnum;

/// A way to write a whole model.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[allow(non_camel_case_types, reason = "the field's own names")]
pub enum Mixture {
    F32,
    #[value(name = "f16")]
    F16,
    #[value(name = "bf16")]
    BF16,
    #[value(name = "q8_0")]
    Q8_0,
    #[value(name = "q6_k")]
    Q6_K,
    #[value(name = "q5_k_m")]
    Q5_K_M,
    #[value(name = "q4_k_m")]
    Q4_K_M,
    #[value(name = "q4_0")]
    Q4_0,
}

/// A matrix, as far as the rule asks: where it stands in which model.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// The module's own name: `v_proj`, `down_proj`, `embed_tokens`, `lm_head`.
    pub module: &'a str,
    /// Counted from 0; `None` outside the layers.
    pub layer: Option<usize>,
    /// Layers of the model.
    pub layers: usize,
    /// Is the embedding the output matrix too?
    pub tied: bool,
    /// Do several query heads share a key head?
    pub grouped: bool,
    /// Experts of a layer; 0 where it has one MLP.
    pub experts: usize,
    /// Values in a row.
    pub row: usize,
}

impl Mixture {
    /// As file names have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q6_K => "Q6_K",
            Self::Q5_K_M => "Q5_K_M",
            Self::Q4_K_M => "Q4_K_M",
            Self::Q4_0 => "Q4_0",
        }
    }

    /// What `general.file_type` of a GGUF file says (`LlamaFileType`).
    pub fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q8_0 => 7,
            Self::Q4_K_M => 15,
            Self::Q5_K_M => 17,
            Self::Q6_K => 18,
            Self::BF16 => 32,
        }
    }

    /// The format of most matrices.
    pub fn base(self) -> DType {
        match self {
            Self::F32 => DType::F32,
            Self::F16 => DType::F16,
            Self::BF16 => DType::BF16,
            Self::Q8_0 => DType::Q8_0,
            Self::Q6_K => DType::Q6_K,
            Self::Q5_K_M => DType::Q5_K,
            Self::Q4_K_M => DType::Q4_K,
            Self::Q4_0 => DType::Q4_0,
        }
    }

    /// The format of this matrix. (Vectors are F32 in all files, and so are the routers of experts.)
    pub fn format(self, place: &Place) -> DType {
        let wanted = self.wanted(place);
        let written = for_rows(wanted, place.row);
        if place.row.is_multiple_of(written.block()) { written } else { DType::F16 }
    }

    /// The format that the matrix would get if its rows were of any length.
    fn wanted(self, place: &Place) -> DType {
        let base = self.base();
        if base.block() == 1 {
            return base;
        }
        let of_k = matches!(self, Self::Q4_K_M | Self::Q5_K_M);
        let gets_more = of_k && place.layer.is_some_and(|layer| gets_more_bits(layer, place.layers));
        match place.module {
            "lm_head" => of_output(base, place.row),
            "embed_tokens" if place.tied => of_output(base, place.row),
            "k_proj" | "v_proj" if place.experts == 8 => DType::Q8_0,
            "v_proj" if gets_more => DType::Q6_K,
            // Eight heads share a key head in such models, so that the matrix is small and worth more.
            "v_proj" if self == Self::Q4_K_M && place.layers == 80 && place.grouped => DType::Q5_K,
            "down_proj" if gets_more => DType::Q6_K,
            "o_proj" if self == Self::Q4_K_M && place.experts == 8 => DType::Q5_K,
            "qkv_proj" if self == Self::Q4_K_M => DType::Q5_K,
            "qkv_proj" if self == Self::Q5_K_M => DType::Q6_K,
            _ => base,
        }
    }
}

/// The output matrix decides over every token: it gets more than the rest.
fn of_output(base: DType, row: usize) -> DType {
    match base {
        DType::Q8_0 => DType::Q8_0,
        _ if !row.is_multiple_of(base.block()) => DType::Q8_0,
        _ => DType::Q6_K,
    }
}

/// The layers whose values and MLP outputs get more bits: the first and the last eighth, and every third between them.
fn gets_more_bits(layer: usize, layers: usize) -> bool {
    let eighth = layers / 8;
    layer < eighth || layer >= 7 * layers / 8 || (layer - eighth) % 3 == 2
}

/// `asked`; where rows of so many values are no whole blocks of it, what llama.cpp takes instead, which has smaller blocks and no less
/// bits. Rows may be no whole blocks of that either.
pub fn for_rows(asked: DType, row: usize) -> DType {
    match asked {
        _ if row.is_multiple_of(asked.block()) => asked,
        DType::Q6_K => DType::Q8_0,
        DType::Q5_K => DType::Q5_1,
        DType::Q4_K => DType::Q5_0,
        DType::Q2_K | DType::Q3_K | DType::IQ4_XS => DType::IQ4_NL,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn place(module: &str, layer: usize, row: usize) -> Place<'_> {
        Place { module, layer: Some(layer), layers: 18, tied: true, grouped: true, experts: 0, row }
    }

    /// The types in the file of Gemma 3 270M that others made with `llama-quantize`: 18 layers, rows of 640, 1,024 (the heads) and 2,048.
    #[test]
    fn gemma_3_270m_becomes_what_its_q4_k_m_file_holds() {
        let rows = [("q_proj", 640), ("k_proj", 640), ("gate_proj", 640), ("up_proj", 640)];
        for (module, row) in rows {
            assert!((0..18).all(|layer| Mixture::Q4_K_M.format(&place(module, layer, row)) == DType::Q5_0), "{module}");
        }
        let count = |module, row| {
            let mut counts = BTreeMap::new();
            (0..18).for_each(|layer| *counts.entry(Mixture::Q4_K_M.format(&place(module, layer, row))).or_insert(0) += 1);
            counts
        };
        assert_eq!(count("v_proj", 640), BTreeMap::from([(DType::Q8_0, 9), (DType::Q5_0, 9)]));
        assert_eq!(count("o_proj", 1024), BTreeMap::from([(DType::Q4_K, 18)]));
        assert_eq!(count("down_proj", 2048), BTreeMap::from([(DType::Q6_K, 9), (DType::Q4_K, 9)]));
        let embedding = Place { layer: None, ..place("embed_tokens", 0, 640) };
        assert_eq!(Mixture::Q4_K_M.format(&embedding), DType::Q8_0);
    }

    #[test]
    fn outputs_get_six_bits_and_untied_embeddings_the_base() {
        let outside = |module, row| Place { layer: None, tied: false, ..place(module, 0, row) };
        assert_eq!(Mixture::Q4_K_M.format(&outside("lm_head", 2048)), DType::Q6_K);
        assert_eq!(Mixture::Q5_K_M.format(&outside("embed_tokens", 2048)), DType::Q5_K);
        assert_eq!(Mixture::Q5_K_M.format(&outside("embed_tokens", 896)), DType::Q5_1);
        assert_eq!(Mixture::Q4_0.format(&outside("lm_head", 2048)), DType::Q6_K);
        // 896 is whole blocks of Q4_0, so Q6_K is asked for, and replaced.
        assert_eq!(Mixture::Q4_0.format(&outside("lm_head", 896)), DType::Q8_0);
        assert_eq!(Mixture::Q8_0.format(&outside("lm_head", 2048)), DType::Q8_0);
        assert_eq!(Mixture::F16.format(&outside("lm_head", 2048)), DType::F16);
    }

    #[test]
    fn fused_and_shared_matrices_get_more() {
        assert_eq!(Mixture::Q4_K_M.format(&place("qkv_proj", 4, 3072)), DType::Q5_K);
        assert_eq!(Mixture::Q5_K_M.format(&place("qkv_proj", 4, 3072)), DType::Q6_K);
        let large = Place { layers: 80, ..place("v_proj", 10, 8192) };
        assert_eq!(Mixture::Q4_K_M.format(&large), DType::Q5_K);
        assert_eq!(Mixture::Q4_K_M.format(&Place { grouped: false, ..large }), DType::Q4_K);
        let of_eight = |module| Place { experts: 8, ..place(module, 4, 4096) };
        assert_eq!(
            ["k_proj", "v_proj", "o_proj"].map(|m| Mixture::Q4_K_M.format(&of_eight(m))),
            [DType::Q8_0, DType::Q8_0, DType::Q5_K]
        );
    }

    #[test]
    fn rows_of_any_length_can_be_written() {
        for mixture in Mixture::value_variants() {
            for module in ["v_proj", "down_proj", "lm_head", "qkv_proj", "q_proj"] {
                for row in [256, 96, 40, 1] {
                    let format = mixture.format(&place(module, 2, row));
                    assert!(row.is_multiple_of(format.block()) && format.can_quantise(), "{mixture:?} {module} {row}: {format}");
                }
            }
        }
        assert_eq!(Mixture::Q4_K_M.format(&place("q_proj", 2, 40)), DType::F16);
    }
}

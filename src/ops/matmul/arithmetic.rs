//! The kernels for `--matmul f16`, `cooperative` and `auto`, and which products they compute.
//!
//! | algorithm | layouts | tile |
//! |---|---|---|
//! | f16 | NT, NN | 64 x 64, 32 x 32, 128 x 128, with narrow subgroups 64 x 64 by 128 invocations, 32 x 32; `matmul_tiled` with its tiles in f16 |
//! | cooperative | NT, NN | 64 x 64, by matrices of 16 x 16 or 8 x 8 |
//!
//! TN stays in f32: it makes the gradients of adapters, which are sums over all tokens and of little work. So does all that has
//! [`NARROW`] rows, columns or steps, or fewer: what an adapter of a usual rank adds, and a generated token, wait for memory and not for
//! arithmetic. A product that is computed in f16 by one rule is so in every run: nothing is measured but the tile, except with `auto`, for which
//! measurement decides whether the forms here take the place of those in f32.

use super::algorithms::{WHOLE, algorithm};
use super::forms::{Form, HALF_SUMS, small_tile, tiles};
use super::variants::Problem;
use crate::kernel::algorithm::{Algorithm, Loads};
use crate::kernel::{Arithmetic, Facts, Layout, Matrices, Needs};

/// Products with more of each than this are worth another arithmetic.
const NARROW: usize = 16;

/// What a product is computed in on such a device.
pub(super) fn of(layout: Layout, sizes: [usize; 3], aligned: bool, facts: &Facts) -> Arithmetic {
    let computes = match facts.arithmetic {
        Arithmetic::F32 => false,
        Arithmetic::F16 | Arithmetic::Cooperative | Arithmetic::Auto => layout != Layout::TN,
    };
    if computes && aligned && sizes.iter().all(|&size| size > NARROW) { facts.arithmetic } else { Arithmetic::F32 }
}

/// The forms that compute in another arithmetic than f32, whose forms are those of [`super::variants`]; the rule's first.
pub(super) fn forms(problem: &Problem, facts: &Facts) -> Vec<&'static Form> {
    match problem.arithmetic {
        Arithmetic::F32 => Vec::new(),
        // Drivers that run on the CPU compile these for seconds and run them slowly, whatever the tile: time that the products in f32 need.
        Arithmetic::F16 if facts.cpu_driver => vec![&F16_64X64],
        Arithmetic::F16 if facts.has_narrow_subgroups() => vec![&F16_64X64_OF_128, &F16_32X32],
        Arithmetic::F16 => vec![&F16_64X64, &F16_32X32, &F16_128X128],
        Arithmetic::Cooperative | Arithmetic::Auto => facts.cooperative.iter().map(|&matrices| cooperative(matrices)).collect(),
    }
}

/// Constants that depend on the device: four of its largest subgroups make a workgroup of [`matmul_cooperative`](cooperative).
pub(super) fn device_constants(algorithm: &Algorithm, facts: &Facts) -> Option<(&'static str, f64)> {
    let (_, largest) = facts.subgroup.filter(|_| algorithm.kernel.needs.cooperative.is_some())?;
    Some(("THREADS", f64::from(4 * largest)))
}

pub(super) fn algorithms() -> impl Iterator<Item = &'static Algorithm> {
    [&F16, &COOPERATIVE_F16X16, &COOPERATIVE_F16X8, &COOPERATIVE_F32X8].into_iter()
}

static F16: Algorithm = algorithm(
    "matmul_tiled_in_f16",
    "matmul_tiled",
    &[WHOLE, ("activations", "activations_f32"), ("tile", "tile_f16")],
    Loads::Elements,
    Needs { f16: true, ..Needs::NONE },
);

// A tile has as many groups of 8 steps as there are invocations to copy them, where workgroup memory allows.
static F16_64X64: Form = tiles("f16_64x64", &F16, &[("K_TILE", 32.0)], 64, 64);
/// Where 64 sums in f32, and as many in f16, do not fit the registers.
static F16_64X64_OF_128: Form = tiles("f16_64x64_of_128", &F16, &HALF_SUMS, 64, 64);
static F16_32X32: Form = tiles("f16_32x32", &F16, &small_tile(8.0, 8.0), 32, 32);
static F16_128X128: Form = tiles("f16_128x128", &F16, &[("THREADS_X", 16.0), ("THREADS_Y", 16.0)], 128, 128);

/// [`matmul_cooperative`](cooperative) on one kind of matrices.
macro_rules! cooperative_algorithm {
    ($name:literal, $matrices:expr, $element:literal, $square:literal) => {
        algorithm(
            $name,
            "matmul_cooperative",
            &[WHOLE, ("activations", "activations_f32"), ("element", $element), ("square", $square)],
            Loads::Elements,
            Needs { f16: $matrices.takes_f16(), cooperative: Some($matrices), ..Needs::NONE },
        )
    };
}

static COOPERATIVE_F16X16: Algorithm =
    cooperative_algorithm!("matmul_cooperative_f16x16", Matrices::F16x16, "cooperative_f16", "cooperative_16");
static COOPERATIVE_F16X8: Algorithm =
    cooperative_algorithm!("matmul_cooperative_f16x8", Matrices::F16x8, "cooperative_f16", "cooperative_8");
static COOPERATIVE_F32X8: Algorithm =
    cooperative_algorithm!("matmul_cooperative_f32x8", Matrices::F32x8, "cooperative_f32", "cooperative_8");

fn cooperative(matrices: Matrices) -> &'static Form {
    static F16X16: Form = tiles("cooperative_f16x16", &COOPERATIVE_F16X16, &[], 64, 64);
    static F16X8: Form = tiles("cooperative_f16x8", &COOPERATIVE_F16X8, &[], 64, 64);
    static F32X8: Form = tiles("cooperative_f32x8", &COOPERATIVE_F32X8, &[], 64, 64);
    match matrices {
        Matrices::F16x16 => &F16X16,
        Matrices::F16x8 => &F16X8,
        Matrices::F32x8 => &F32X8,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_products_take_the_switch_and_adapters_do_not() {
        let facts = |arithmetic| Facts { arithmetic, ..Facts::default() };
        let (f16, cooperative) = (facts(Arithmetic::F16), facts(Arithmetic::Cooperative));
        let large = [512, 576, 1536];
        for facts in [f16, cooperative] {
            for layout in [Layout::NT, Layout::NN] {
                assert_eq!(of(layout, large, true, &facts), facts.arithmetic);
            }
            assert_eq!(of(Layout::TN, large, true, &facts), Arithmetic::F32, "the gradient of an adapter");
            assert_eq!(of(Layout::NT, large, false, &facts), Arithmetic::F32);
            for narrow in [[1, 576, 1536], [512, 16, 576], [512, 576, 16]] {
                assert_eq!(of(Layout::NT, narrow, true, &facts), Arithmetic::F32, "{narrow:?}");
            }
        }
        assert_eq!(of(Layout::NT, large, true, &facts(Arithmetic::F32)), Arithmetic::F32);
    }

    /// What is measured for `auto` is all that f32 has, the rule's first, and the matrices; an adapter's term does not bind the choice, as it
    /// does among forms in f32.
    #[test]
    fn auto_races_the_matrices_against_all_of_f32() {
        let facts = Facts {
            arithmetic: Arithmetic::Auto,
            cooperative: Some(Matrices::F16x16),
            f16: true,
            subgroup: Some((32, 32)),
            ..Facts::default()
        };
        for (layout, size) in [(Layout::NT, [512, 576, 1536]), (Layout::NN, [512, 1536, 576])] {
            let problem = |arithmetic| Problem {
                layout,
                m: size[0],
                n: size[1],
                k: size[2],
                dtype: crate::storage::DType::BF16,
                arithmetic,
                aligned: true,
                parts: 1,
            };
            let ids = |arithmetic| problem(arithmetic).candidates(&facts).into_iter().map(|form| form.id).collect::<Vec<_>>();
            let all = ids(of(layout, size, true, &facts));
            assert_eq!(all, [&ids(Arithmetic::F32)[..], &["cooperative_f16x16"]].concat());
            let form = forms(&problem(Arithmetic::Auto), &facts)[0];
            assert!(form.variant(&problem(Arithmetic::Auto), &facts).unwrap().constants.contains(&("THREADS", 128.0)));
        }
    }
}

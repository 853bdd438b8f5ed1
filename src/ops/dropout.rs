//! `dropout`: sets random elements to zero and scales the rest so that the expectation stays (Srivastava et al. 2014), on the input of
//! LoRA's A matrices.
//!
//! `y[i] = x[i] / (1 - p)` where `hash(seed, step, salt, i) >= p 2^32`, and 0 elsewhere
//!
//! | input | shape | |
//! |---|---|---|
//! | x | `[rows, columns]` f32 | |
//! | counter | `[1, 2]` u32 | seed, and a number that is new for every forward pass |
//!
//! The generator is counter-based (Salmon et al. 2011): no state, so that a recomputed or resumed step draws the same mask. The
//! hash is the finaliser of MurmurHash3 (Appleby), applied once for each part of the key and twice for the element.
//!
//! **Gradient.** `d_x` is `d_y` under the same mask and factor: the op itself, with the same counter and salt.

use super::{Example, OpEntry, expect, spread};
use crate::graph::{Call, DType, Derivative, Differentiate, Dispatch, Matrix, Op, Rows, ShapeError, TensorType, Vjp};
use crate::kernel::Kernel;
use crate::kernel_params;

#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability that an element becomes 0, in `0 .. 1`.
    pub p: f64,
    /// Tells the dropouts of one step apart.
    pub salt: u32,
}

impl Dropout {
    fn threshold(&self) -> u32 {
        (self.p * 2f64.powi(32)) as u32
    }

    fn factor(&self) -> f64 {
        1.0 / (1.0 - self.p)
    }

    fn keeps(&self, seed: u32, step: u32, element: u32) -> bool {
        let key = mix(mix(mix(seed).wrapping_add(step)).wrapping_add(self.salt));
        mix(mix(element ^ key).wrapping_add(key)) >= self.threshold()
    }
}

/// A bijection of 32 bits in which every input bit flips every output bit with probability close to 1/2.
fn mix(value: u32) -> u32 {
    let mut z = value.wrapping_add(0x9e37_79b9);
    z = (z ^ (z >> 16)).wrapping_mul(0x85eb_ca6b);
    z = (z ^ (z >> 13)).wrapping_mul(0xc2b2_ae35);
    z ^ (z >> 16)
}

impl Op for Dropout {
    fn name(&self) -> &'static str {
        "dropout"
    }

    fn infer(&self, inputs: &[TensorType]) -> Result<Vec<TensorType>, ShapeError> {
        expect::count("dropout", inputs, 2)?;
        if !(0.0..1.0).contains(&self.p) {
            return Err(ShapeError::new("dropout", "p", self.p, "at least 0 and below 1"));
        }
        expect::dtype("dropout", "x", inputs[0], DType::F32)?;
        expect::same("dropout", "counter", inputs[1], TensorType::u32(Rows::Fixed(1), 2))?;
        Ok(vec![inputs[0]])
    }

    fn derivative(&self) -> Derivative<'_> {
        Derivative::Rule(self)
    }

    fn reference(&self, inputs: &[&Matrix], _: &[[usize; 2]]) -> Vec<Matrix> {
        let [x, counter] = inputs else { unreachable!("checked by infer") };
        let (seed, step) = (counter.index(0, 0) as u32, counter.index(0, 1) as u32);
        let drop = |(i, x): (usize, &f64)| if self.keeps(seed, step, i as u32) { x * self.factor() } else { 0.0 };
        vec![Matrix::new([x.rows, x.columns], x.data.iter().enumerate().map(drop).collect())]
    }

    fn launch(&self, call: &Call) -> Vec<Dispatch> {
        let elements = call.outputs[0].elements();
        let params =
            Params { elements: elements as u32, salt: self.salt, threshold: self.threshold(), factor: self.factor() as f32 };
        vec![Dispatch::only(&KERNEL, call, params.bytes(), spread(elements.div_ceil(1024)))]
    }
}

impl Differentiate for Dropout {
    fn vjp(&self, vjp: &mut Vjp) -> Result<(), ShapeError> {
        let (Some(d_y), true) = (vjp.d_outputs[0], vjp.wants(0)) else { return Ok(()) };
        let name = vjp.d_name(0);
        let d_x = vjp.graph.apply_one(*self, &[d_y, vjp.inputs[1]], name)?;
        vjp.give(0, d_x);
        Ok(())
    }
}

kernel_params!(Params { elements: u32, salt: u32, threshold: u32, factor: f32 });

/// One workgroup for 1,024 elements.
pub static KERNEL: Kernel = Kernel::checked("dropout", Params::FIELDS);

pub(super) fn entry() -> OpEntry {
    OpEntry {
        name: "dropout",
        kernels: vec![&KERNEL],
        examples: |random| {
            let example = |(rows, columns, p)| {
                let counter = [1 << 20, 1000].map(|bound| random.below(bound) as f64).into();
                let inputs = vec![
                    (TensorType::f32(Rows::Fixed(rows), columns), random.matrix([rows, columns], 1.0)),
                    (TensorType::u32(Rows::Fixed(1), 2), Matrix::new([1, 2], counter)),
                ];
                Example::new(Dropout { p, salt: random.below(100) as u32 }, inputs)
            };
            [(1, 1, 0.0), (7, 9, 0.5), (130, 65, 0.1), (20, 64, 0.9)].map(example).into()
        },
        tolerance: |_| 1e-6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of n independent draws the kept share has standard deviation sqrt(p (1 - p) / n); 5 of them are allowed.
    #[test]
    fn keeps_the_right_share_independently_of_every_part_of_the_key() {
        const N: u32 = 200_000;
        let share = |p: f64, keep: &dyn Fn(u32) -> bool| {
            let kept = (0..N).filter(|&i| keep(i)).count() as f64 / f64::from(N);
            let bound = 5.0 * (p * (1.0 - p) / f64::from(N)).sqrt();
            assert!((kept - (1.0 - p)).abs() < bound, "kept {kept} at p = {p}");
        };
        for p in [0.05, 0.1, 0.5, 0.9] {
            let dropout = Dropout { p, salt: 3 };
            share(p, &|i| dropout.keeps(42, 7, i));
            share(p, &|i| dropout.keeps(i, 7, 5));
            share(p, &|i| dropout.keeps(42, i, 5));
            share(p, &|i| Dropout { p, salt: i }.keeps(42, 7, 5));
        }
        // Masks of neighbouring steps, salts and elements agree as often as independent ones: with p = 1/2, half of the time.
        let half = Dropout { p: 0.5, salt: 3 };
        share(0.5, &|i| half.keeps(42, 7, i) == half.keeps(42, 8, i));
        share(0.5, &|i| half.keeps(42, 7, i) == half.keeps(43, 7, i));
        share(0.5, &|i| half.keeps(42, 7, i) == Dropout { p: 0.5, salt: 4 }.keeps(42, 7, i));
        share(0.5, &|i| half.keeps(42, 7, i) == half.keeps(42, 7, i + 1));
        share(0.5, &|i| half.keeps(42, 7, i) == half.keeps(42, 7, i ^ 64));
    }
}

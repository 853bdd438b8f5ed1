//! `--matmul f16` and `--matmul cooperative`: the kernels against the f64 reference, within bounds that follow from how they round; numbers
//! that f16 does not have; and whole training runs beside the same in f32.

mod common;
mod runs;

use common::{graph_of, run_on};
use graftling::gpu::{Device, adapters};
use graftling::graph::{Call, DType, Dispatch, Matrix, Op, Operand, Origin, Rows, TensorType};
use graftling::kernel::{Arithmetic, Class, Facts, Layout, Matrices, Tuning};
use graftling::ops::matmul::Matmul;
use graftling::ops::{Example, Random};
use graftling::plan::Tuned;
use libtest_mimic::{Arguments, Trial};
use runs::{Workshop, run};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Largest relative error of one operation in f16. WGSL leaves it to the device whether it rounds to nearest (2^-11) or not.
const U: f64 = 1.0 / 1024.0;
/// Steps of k that `shaders/common/tile_f16.wgsl` sums in f16.
const GROUP: f64 = 8.0;

/// The device at hand as if it were a GPU: drivers that run on the CPU do without a choice of tiles.
fn open(arithmetic: Arithmetic) -> graftling::Result<Device> {
    let mut device = Device::open_for(std::env::var("GRAFTLING_TEST_DEVICE").ok().as_deref(), arithmetic)?;
    device.facts.cpu_driver = false;
    Ok(device)
}

/// A device of every kind that computes in this arithmetic here; none, with the reason printed, where this one cannot.
fn devices(arithmetic: Arithmetic) -> Vec<Arc<Device>> {
    let first = match open(arithmetic) {
        Ok(device) => device,
        Err(error) => {
            eprintln!("{error}");
            return Vec::new();
        }
    };
    let Some(adapter) = adapters().into_iter().find(|adapter| adapter.get_info() == first.info) else { return Vec::new() };
    let as_if = |changed: &dyn Fn(&mut Facts)| {
        let mut device = open(arithmetic).unwrap();
        changed(&mut device.facts);
        device
    };
    let others: Vec<Device> = match arithmetic {
        Arithmetic::Cooperative => {
            let others = Matrices::offered(&adapter).split_off(1);
            others.into_iter().map(|matrices| as_if(&|facts| facts.cooperative = Some(matrices))).collect()
        }
        // Their tiles are others where subgroups are narrow.
        _ if first.facts.has_narrow_subgroups() => vec![as_if(&|facts| facts.subgroup = None)],
        _ => vec![as_if(&|facts| facts.subgroup = Some((8, 8)))],
    };
    std::iter::once(first).chain(others).map(Arc::new).collect()
}

fn launch(op: &dyn Op, types: &[TensorType], facts: &Facts, tuning: &Tuning) -> Vec<Dispatch> {
    let operand = |&tensor: &TensorType| Operand { tensor, rows: tensor.shape.rows.max(), part_starts: vec![0] };
    let outputs = op.infer(types).unwrap();
    let (inputs, outputs): (Vec<_>, Vec<_>) = (types.iter().map(operand).collect(), outputs.iter().map(operand).collect());
    op.launch(&Call { inputs: &inputs, outputs: &outputs, device: facts, tuning })
}

fn types_of(example: &Example) -> Vec<TensorType> {
    example.inputs.iter().map(|(tensor, _)| *tensor).collect()
}

/// Does the device compute this in another arithmetic than f32?
fn is_reduced(example: &Example, facts: &Facts) -> bool {
    let reduced = |dispatch: &Dispatch| dispatch.kernel.needs.f16 || dispatch.kernel.needs.cooperative.is_some();
    launch(&*example.op, &types_of(example), facts, &Tuning::NONE).iter().any(reduced)
}

/// `scale op(a) op(b) (+ addend)` in f64.
fn product(layout: Layout, scale: f64, inputs: &[&Matrix], shape: [usize; 2]) -> Matrix {
    Matmul { layout, scale }.reference(inputs, &[shape]).swap_remove(0)
}

/// One product, with what is needed to bound its errors.
struct Product {
    layout: Layout,
    scale: f64,
    example: Example,
}

impl Product {
    fn new(random: &mut Random, layout: Layout, [m, n, k]: [usize; 3], dtype: DType, addend: bool) -> Self {
        let b = if layout == Layout::NT { [n, k] } else { [k, n] };
        let mut input = |[rows, columns]: [usize; 2], dtype| {
            (TensorType::new(Rows::Fixed(rows), columns, dtype), random.stored([rows, columns], 1.0, dtype))
        };
        let mut inputs = vec![input([m, k], DType::F32), input(b, dtype)];
        if addend {
            inputs.push(input([m, n], DType::F32));
        }
        let scale = if addend { 0.5 } else { 1.0 };
        Self { layout, scale, example: Example::new(Matmul { layout, scale }, inputs) }
    }

    fn run(&self, place: &(impl Into<Tuned> + Clone)) -> Vec<f32> {
        let (graph, ids, outputs) = graph_of(&self.example, Origin::Input);
        let matrices = self.example.inputs.iter().map(|(_, matrix)| matrix.clone());
        run_on(place, &graph, &ids.into_iter().zip(matrices).collect::<Vec<_>>(), &outputs, &self.example.counts).swap_remove(0)
    }

    fn inputs(&self) -> Vec<&Matrix> {
        self.example.inputs.iter().map(|(_, matrix)| matrix).collect()
    }

    fn shape(&self) -> [usize; 2] {
        let [a, b] = [&self.example.inputs[0].1, &self.example.inputs[1].1];
        [a.rows, if self.layout == Layout::NT { b.rows } else { b.columns }]
    }

    fn expected(&self) -> Matrix {
        product(self.layout, self.scale, &self.inputs(), self.shape())
    }

    /// How far each element may be off. Two operands are rounded, and in f16 each product and each sum of a group of [`GROUP`]; an error is
    /// taken to lie anywhere within +- u of what is rounded, so its variance is at most u^2 / 3 times the square of that. The square of a sum
    /// in a group is on average half of the group's sum of squares, so sum (a b)^2 counts 2 + 1 + GROUP / 2 times for f16, and 3 times
    /// where products are rounded once (cooperative matrices). Independent errors stay within six standard deviations of their sum; errors of
    /// one direction (a device that cuts off) take up to 3 u from each product, and so from their sum. Sums in f32 add 1e-6 sqrt(k) of the
    /// spread of the products: that of f32 kernels, but by element, since magnitudes may differ between them.
    fn bounds(&self, device: &Device) -> Vec<f64> {
        let f32_operands =
            device.facts.arithmetic == Arithmetic::Cooperative && device.facts.cooperative == Some(Matrices::F32x8);
        let u = if f32_operands { 0.0 } else { U };
        let roundings = 3.0 + if device.facts.arithmetic == Arithmetic::F16 { GROUP / 2.0 } else { 0.0 };
        let square =
            |matrix: &Matrix| Matrix::new([matrix.rows, matrix.columns], matrix.data.iter().map(|value| value * value).collect());
        let inputs = self.inputs();
        let (a, b) = (square(inputs[0]), square(inputs[1]));
        let squares = product(self.layout, 1.0, &[&a, &b], self.shape());
        let sums = product(self.layout, 1.0, &inputs[..2], self.shape());
        let in_f32 = 1e-6 * (inputs[0].columns as f64).sqrt();
        let of = |(squares, sum): (&f64, &f64)| {
            let spread = squares.sqrt();
            self.scale.abs() * (u * (6.0 * (roundings / 3.0).sqrt() * spread + 3.0 * sum.abs()) + in_f32 * spread)
        };
        squares.data.iter().zip(&sums.data).map(of).collect()
    }

    fn check(&self, place: &(impl Into<Tuned> + Clone), what: &str) {
        let place: Tuned = place.clone().into();
        let (found, expected, bounds) = (self.run(&place), self.expected(), self.bounds(&place.device));
        for (at, ((&found, expected), bound)) in found.iter().zip(&expected.data).zip(bounds).enumerate() {
            let distance = (f64::from(found) - expected).abs();
            assert!(distance <= bound, "{what}, element {at}: {found} is {distance:e} from {expected}, more than {bound:e}");
        }
    }
}

/// Sizes with tails in rows, columns and steps, by tiles of 32, 64 and 128 and groups of 8; blocks of 32 and of 256 for quantised weights.
const SIZES: [[usize; 3]; 7] =
    [[65, 192, 64], [17, 32, 20], [127, 68, 36], [130, 260, 132], [101, 96, 160], [64, 64, 576], [39, 256, 512]];

/// Every form, all storage types of weights, with an addend and without.
fn every_kernel_is_within_its_bound(arithmetic: Arithmetic, layouts: &[Layout]) {
    for device in devices(arithmetic) {
        let plain = device.facts.clone();
        let mut checked = BTreeSet::new();
        for (number, size) in SIZES.into_iter().enumerate() {
            for (dtype, &layout) in DType::WEIGHTS.iter().flat_map(|dtype| layouts.iter().map(move |layout| (*dtype, layout))) {
                let [_, n, k] = size;
                if !(if layout == Layout::NT { k } else { n }).is_multiple_of(dtype.block()) {
                    continue;
                }
                let product = Product::new(&mut Random(7), layout, size, dtype, number % 2 == 1);
                assert!(is_reduced(&product.example, &plain), "{layout:?} {size:?} {dtype} is computed in f32");
                let listening = Tuning::listening();
                launch(&*product.example.op, &types_of(&product.example), &plain, &listening);
                let class: Class = listening.asked().pop().unwrap();
                assert_eq!(class.arithmetic, arithmetic);
                for id in class.candidates(&plain) {
                    // Drivers compile large tiles for seconds: every tile with one storage, and every storage with the smallest.
                    if arithmetic == Arithmetic::F16 && dtype != DType::F32 && id != "f16_32x32" {
                        continue;
                    }
                    checked.insert((id, dtype.to_string()));
                    let tuning = Tuning::new(HashMap::from([(class, id.to_string())]));
                    product.check(&Tuned { device: device.clone(), tuning }, &format!("{class} {id}"));
                }
            }
        }
        for dtype in DType::WEIGHTS {
            assert!(checked.iter().any(|(_, storage)| *storage == dtype.to_string()), "no kernel for {dtype} in {checked:?}");
        }
    }
}

fn every_f16_kernel_is_within_its_bound() {
    every_kernel_is_within_its_bound(Arithmetic::F16, &[Layout::NT, Layout::NN]);
}

fn every_cooperative_kernel_is_within_its_bound() {
    every_kernel_is_within_its_bound(Arithmetic::Cooperative, &[Layout::NT, Layout::NN]);
}

/// Magnitudes that f16 does not have, next to each other: each row of a times another power of ten, and each 4 columns of b, where that
/// arithmetic scales it.
fn far_apart(product: &mut Product, arithmetic: Arithmetic) {
    const EXPONENTS: [i32; 8] = [0, -12, 5, -8, 12, -3, 8, -6];
    let b_by_rows = product.layout == Layout::NT;
    let scaled = [(0, true, 1), (1, b_by_rows, 4)].into_iter().take(if arithmetic == Arithmetic::F16 { 2 } else { 1 });
    for (slot, by_rows, together) in scaled {
        let matrix = &mut product.example.inputs[slot].1;
        for at in 0..matrix.data.len() {
            let line = if by_rows { at / matrix.columns } else { at % matrix.columns };
            matrix.data[at] = f64::from((matrix.data[at] * 10f64.powi(EXPONENTS[line / together % 8])) as f32);
        }
    }
}

/// Gradients far below f16's range, and activations far above it where they are scaled, are as exact as all else.
fn what_is_scaled_takes_any_magnitude(arithmetic: Arithmetic) {
    for device in devices(arithmetic) {
        for layout in scaled_layouts(arithmetic) {
            let mut product = Product::new(&mut Random(9), *layout, [64, 96, 80], DType::F32, false);
            far_apart(&mut product, arithmetic);
            product.check(&device, &format!("{layout:?}"));
        }
    }
}

/// Cooperative matrices scale the rows of gradients alone.
fn scaled_layouts(arithmetic: Arithmetic) -> &'static [Layout] {
    if arithmetic == Arithmetic::F16 { &[Layout::NT, Layout::NN] } else { &[Layout::NN] }
}

/// The rows of a in another order give the rows of out in that order, to the last bit: a token's numbers depend on nothing that stands beside
/// it, so that packing and the prefix cache change none.
fn rows_do_not_depend_on_each_other(arithmetic: Arithmetic) {
    let layouts = [Layout::NT, Layout::NN];
    for (device, layout) in devices(arithmetic).iter().flat_map(|device| layouts.map(|layout| (device, layout))) {
        let mut product = Product::new(&mut Random(11), layout, [61, 96, 80], DType::F32, false);
        if scaled_layouts(arithmetic).contains(&layout) {
            far_apart(&mut product, arithmetic);
        }
        let rows = |values: &[f32]| values.chunks(96).map(<[f32]>::to_vec).collect::<Vec<_>>();
        let mut expected = rows(&product.run(device));
        expected.reverse();
        let a = &mut product.example.inputs[0].1;
        a.data = a.data.chunks(a.columns).rev().flatten().copied().collect();
        assert_eq!(rows(&product.run(device)), expected, "{} {layout:?}", arithmetic.name());
    }
}

/// Cooperative matrices in f16: what is above 65504 counts as 65504, to the last bit, and nothing becomes infinite.
fn cooperative_matrices_hold_large_activations_at_the_largest() {
    for device in devices(Arithmetic::Cooperative) {
        if device.facts.cooperative == Some(Matrices::F32x8) {
            continue;
        }
        let mut product = Product::new(&mut Random(9), Layout::NT, [64, 64, 64], DType::F32, false);
        for (at, value) in [(5, 65_504.0), (64 * 7 + 3, 65_520.0), (64 * 20 + 9, -1e6), (64 * 33 + 60, 1e30)] {
            product.example.inputs[0].1.data[at] = value;
        }
        let found = product.run(&device);
        product.example.inputs[0].1.data.iter_mut().for_each(|value| *value = value.clamp(-65_504.0, 65_504.0));
        assert_eq!(found, product.run(&device));
        product.check(&device, "65504");
    }
}

/// Losses of a whole run beside those of the same run in f32. In the first step the adapters are the same, and products are off by some 5e-4
/// of their size: so is the loss, near 8.5, at most (8e-4 was measured), held to 2e-3. After that AdamW moves an element by the learning
/// rate, here 5e-3, whichever sign its gradient has, also where that is smaller than what is rounded: the runs part by about 1e-2 (2.2e-2
/// was measured with f16 for three seeds, 2.5e-2 with cooperative), held to 5e-2, and learn as much.
fn training_losses_are_near_those_of_f32(arithmetic: Arithmetic) {
    let shop = Workshop::new();
    let losses = |out: &str, more: &[&str]| -> Vec<f64> {
        run(shop.train(out, &[&["--max-steps", "12"], more].concat()), 0);
        shop.metrics(out).iter().map(|step| step["loss"].as_f64().unwrap()).collect()
    };
    let exact = losses("f32", &[]);
    assert!(exact[11] < exact[0] - 1.0, "{exact:?}");
    let found = losses(arithmetic.name(), &["--matmul", arithmetic.name()]);
    let furthest = exact.iter().zip(&found).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
    eprintln!("{}: at most {furthest:e} from the losses in f32", arithmetic.name());
    assert!(furthest > 0.0, "{}: the very numbers of f32", arithmetic.name());
    assert!((exact[0] - found[0]).abs() < 2e-3 && furthest < 5e-2, "{exact:?} {found:?}");

    // The same numbers again, and from a checkpoint only with the same arithmetic.
    let again = losses("again", &["--matmul", arithmetic.name()]);
    assert_eq!(found, again);
    let (_, err) = run(shop.train(arithmetic.name(), &["--max-steps", "12", "--resume"]), 2);
    assert!(err.contains("matmul was \"") && err.contains(arithmetic.name()), "{err}");
    std::fs::remove_dir_all(shop.path("again")).unwrap();
}

/// `auto` computes in f32 what no measurement gave to the matrices, bit for bit, and by them what one did.
fn auto_computes_what_was_chosen() {
    let [auto, cooperative, f32] =
        [Arithmetic::Auto, Arithmetic::Cooperative, Arithmetic::F32].map(|arithmetic| Arc::new(open(arithmetic).unwrap()));
    for layout in [Layout::NT, Layout::NN] {
        let product = Product::new(&mut Random(13), layout, [64, 96, 160], DType::BF16, true);
        let listening = Tuning::listening();
        launch(&*product.example.op, &types_of(&product.example), &auto.facts, &listening);
        let class = listening.asked().pop().unwrap();
        assert_eq!(class.arithmetic, Arithmetic::Auto);
        let id = *class.candidates(&auto.facts).last().unwrap();
        let tuning = Tuning::new(HashMap::from([(class, id.to_string())]));
        assert_eq!(product.run(&auto), product.run(&f32), "{layout:?}");
        let chosen = product.run(&Tuned { device: auto.clone(), tuning });
        assert_eq!(chosen, product.run(&cooperative), "{layout:?} {id}");
        assert_ne!(chosen, product.run(&f32), "{layout:?} {id}");
    }
}

/// Where nothing was measured, or there are no matrices, `auto` says so and gives the numbers of f32.
fn auto_without_a_measurement_is_f32() {
    let shop = Workshop::new();
    let losses = |out: &str, more: &[&str]| {
        let (_, said) = run(shop.train(out, &[&["--max-steps", "3"], more].concat()), 0);
        (shop.metrics(out).iter().map(|step| step["loss"].as_f64().unwrap()).collect::<Vec<_>>(), said)
    };
    let (found, said) = losses("auto", &["--matmul", "auto"]);
    assert!(said.contains("matmul auto: all in f32"), "{said}");
    assert_eq!(found, losses("f32", &[]).0);
}

/// A device that lacks what is asked for is named, with what it lacks and what to do.
fn a_device_that_cannot_is_an_error_that_says_so(arithmetic: Arithmetic) {
    let shop = Workshop::new();
    let (_, err) = run(shop.train("out", &["--matmul", arithmetic.name()]), 2);
    for part in [&format!("--matmul {}: GPU `", arithmetic.name()), "does not offer", "use --matmul f32"] {
        assert!(err.contains(part), "no `{part}` in {err}");
    }
    assert!(shop.names("out").is_empty(), "nothing is written");
}

/// What the device at hand cannot compute in is reported as ignored, in the line of each test that would need it.
fn main() {
    let arguments = Arguments::from_args();
    let mut trials = Vec::new();
    for arithmetic in [Arithmetic::F16, Arithmetic::Cooperative] {
        let lacks = devices(arithmetic).is_empty();
        let mut add = |name: &str, ignored: bool, test: Box<dyn FnOnce() + Send>| {
            let test = Trial::test(format!("{name}::{}", arithmetic.name()), move || {
                test();
                Ok(())
            });
            let needs = format!("{}needs {}", if lacks { "not here, " } else { "" }, arithmetic.name());
            // That a device which can do it refuses is nothing that could be run.
            if lacks && ignored {
                common::not_run::record(&format!("{name}::{}", arithmetic.name()), &needs);
            }
            trials.push(test.with_kind(needs).with_ignored_flag(ignored));
        };
        match arithmetic {
            Arithmetic::F16 => {
                add("every_kernel_is_within_its_bound", lacks, Box::new(every_f16_kernel_is_within_its_bound));
            }
            _ => {
                add("every_kernel_is_within_its_bound", lacks, Box::new(every_cooperative_kernel_is_within_its_bound));
                let largest = Box::new(cooperative_matrices_hold_large_activations_at_the_largest);
                add("matrices_hold_large_activations_at_the_largest", lacks, largest);
                add("auto_computes_what_was_chosen", lacks, Box::new(auto_computes_what_was_chosen));
                add("auto_without_a_measurement_is_f32", false, Box::new(auto_without_a_measurement_is_f32));
            }
        }
        add("what_is_scaled_takes_any_magnitude", lacks, Box::new(move || what_is_scaled_takes_any_magnitude(arithmetic)));
        add("rows_do_not_depend_on_each_other", lacks, Box::new(move || rows_do_not_depend_on_each_other(arithmetic)));
        add("training_losses_are_near_those_of_f32", lacks, Box::new(move || training_losses_are_near_those_of_f32(arithmetic)));
        let refused = Box::new(move || a_device_that_cannot_is_an_error_that_says_so(arithmetic));
        add("a_device_that_cannot_is_an_error_that_says_so", !lacks, refused);
    }
    libtest_mimic::run(&arguments, trials).exit();
}

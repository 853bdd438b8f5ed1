//! Every kernel on every backend, without any of them: what the engine can dispatch is translated for Vulkan, Metal and DX12, and held
//! against what it declares and against WebGPU's default limits.

mod loops;
#[path = "../common/not_run.rs"]
mod not_run;
mod races;
mod translate;
mod uniformity;
mod values;
mod variants;

use graftling::graph::Dispatch;
use graftling::kernel::reflect::{self, BindingKind};
use graftling::kernel::{Facts, Needs, Tuning, shader};
use graftling::ops::registry;
use rayon::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use variants::{DEFAULT_LIMITS, Variant, variants};

/// WebGPU's default limits (https://www.w3.org/TR/webgpu/#limits).
const MAX_INVOCATIONS: u32 = 256;
const MAX_WORKGROUP_SIZE: [u32; 3] = [256, 256, 64];
const MAX_WORKGROUP_BYTES: u32 = 16 << 10;
const MAX_STORAGE_BUFFERS: usize = 8;
const MAX_WORKGROUPS: u32 = 65_535;

/// Runs a check on every variant and reports all that fail, not only the first.
fn on_every_variant(check: impl Fn(&Variant) -> Result<(), String>) {
    let failures: Vec<String> =
        variants().iter().filter_map(|variant| check(variant).err().map(|problem| format!("{variant}: {problem}"))).collect();
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
}

#[test]
fn every_variant_translates_to_spirv_and_passes_spirv_val() {
    if !translate::has_spirv_val() {
        not_run::not_run("spirv-val is not installed (Debian: spirv-tools); the translation itself is checked");
    }
    on_every_variant(|variant| translate::spirv(&variant.resolve()?, variant.kernel.needs));
}

#[test]
fn every_variant_translates_to_metal() {
    on_every_variant(|variant| translate::metal(&variant.resolve()?, variant.kernel.needs));
}

#[test]
fn every_variant_translates_to_hlsl() {
    let (cooperative, others): (Vec<&Variant>, Vec<&Variant>) =
        variants().iter().partition(|variant| variant.kernel.needs.cooperative.is_some());
    assert!(!cooperative.is_empty() && !others.is_empty());
    eprintln!(
        "{} variants on cooperative matrices are left out: naga has no HLSL for them, and so wgpu none on DX12",
        cooperative.len()
    );
    on_every_variant(|variant| match variant.kernel.needs.cooperative {
        Some(_) => Ok(()),
        None => translate::hlsl(&variant.resolve()?, variant.kernel.needs),
    });
}

/// The shader's parameter struct is Rust's, field by field: name, type, offset. A struct fits the slot that a dispatch has for it.
#[test]
fn parameter_structs_are_those_of_the_host() {
    for kernel in registry().into_iter().flat_map(|entry| entry.kernels) {
        let interface = reflect::interface(kernel).unwrap_or_else(|problem| panic!("{problem}"));
        let Some(BindingKind::Uniform(bytes)) = interface.bindings.first().copied() else {
            panic!("{}: binding 0 is not the parameter struct", kernel.name)
        };
        assert!(bytes as usize <= graftling::gpu::ALIGNMENT, "{}: {bytes} bytes of parameters", kernel.name);
        assert_eq!(interface.params.len(), kernel.params.len(), "{}", kernel.name);
        for ((name, scalar, offset), field) in interface.params.iter().zip(kernel.params) {
            assert_eq!((name.as_str(), *scalar, *offset), (field.name, field.scalar, field.offset), "{}", kernel.name);
        }
    }
}

/// A comparison that finds nothing proves nothing: a struct with a field renamed, moved or of another type is found.
#[test]
fn a_parameter_struct_that_differs_is_found() {
    use graftling::kernel::ParamField;
    const WGSL: &str = "struct Params { rows: u32, scale: f32 }
        @group(0) @binding(0) var<uniform> params: Params;
        @compute @workgroup_size(1) fn main() { _ = params.rows; }";
    const ROWS: ParamField = ParamField { name: "rows", scalar: "u32", offset: 0 };
    const SCALE: ParamField = ParamField { name: "scale", scalar: "f32", offset: 4 };
    let interface = |params: &[ParamField]| reflect::interface_of("planted", WGSL, params);
    assert!(interface(&[ROWS, SCALE]).is_ok());
    assert!(interface(&[ROWS]).is_err());
    assert!(interface(&[SCALE, ROWS]).is_err());
    assert!(interface(&[ParamField { name: "row", ..ROWS }, SCALE]).is_err());
    assert!(interface(&[ROWS, ParamField { scalar: "u32", ..SCALE }]).is_err());
    assert!(interface(&[ROWS, ParamField { offset: 8, ..SCALE }]).is_err());
}

/// Workgroups stay within WebGPU's default limits in every variant, and bindings in every one that claims to run everywhere.
#[test]
fn limits_of_every_variant() {
    on_every_variant(|variant| {
        let resolved = variant.resolve()?;
        let size = resolved.workgroup_size();
        if size.iter().product::<u32>() > MAX_INVOCATIONS || size.iter().zip(MAX_WORKGROUP_SIZE).any(|(size, most)| *size > most)
        {
            return Err(format!("workgroups of {size:?}"));
        }
        let bytes = resolved.workgroup_bytes();
        if bytes > MAX_WORKGROUP_BYTES {
            return Err(format!("{bytes} bytes of workgroup memory"));
        }
        let buffers = reflect::interface(variant.kernel)?.bindings.len() - 1;
        if variant.kernel.needs == Needs::NONE && buffers > MAX_STORAGE_BUFFERS {
            return Err(format!("{buffers} storage buffers"));
        }
        Ok(())
    });
}

/// What a variant uses is what it declares: with no more capabilities than its `needs` name, naga accepts it; with fewer, it does not.
#[test]
fn needs_are_declared_exactly() {
    on_every_variant(|variant| {
        let needs = variant.kernel.needs;
        variant.resolve_with(needs).map_err(|problem| format!("needs more than {needs:?}: {problem}"))?;
        let fewer = [
            Needs { subgroup_size: None, ..needs },
            Needs { int64: false, ..needs },
            Needs { f16: false, ..needs },
            Needs { cooperative: None, ..needs },
        ];
        match fewer.into_iter().find(|fewer| *fewer != needs && variant.resolve_with(*fewer).is_ok()) {
            Some(fewer) => Err(format!("declares {needs:?}; {fewer:?} would do")),
            None => Ok(()),
        }
    });
}

#[test]
fn barriers_stand_in_uniform_control_flow() {
    on_every_variant(|variant| {
        let resolved = variant.resolve()?;
        let one_subgroup = variant.kernel.needs.subgroup_size == Some(resolved.workgroup_size().iter().product());
        uniformity::check(&resolved.module, one_subgroup)
    });
}

/// No kernel can run for ever, though nothing counts its rounds.
#[test]
fn every_loop_ends() {
    let mut met = BTreeSet::new();
    for kernel in registry().into_iter().flat_map(|entry| entry.kernels) {
        let source = shader::source(kernel).unwrap_or_else(|problem| panic!("{problem}"));
        let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        let found = loops::not_counting(&module);
        let known = loops::OTHERS.iter().find(|(shader, ..)| *shader == kernel.shader).map_or(0, |(_, loops, _)| *loops);
        assert_eq!(found.len(), known, "{}: {found:?} do not count by a constant; loops.rs lists {known}", kernel.name);
        met.insert(kernel.shader);
    }
    assert!(loops::OTHERS.iter().all(|(shader, ..)| met.contains(shader)), "a listed shader is gone");
}

/// The check on loops of a few lines.
#[test]
fn loops_that_may_not_end_are_found() {
    let others = |body: &str| {
        let source = format!(
            "const STEP = 2u; override LANES: u32 = 8;
            @group(0) @binding(0) var<storage, read_write> out: array<u32>;
            @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) lane: u32) {{ var n = out[0]; {body} }}"
        );
        let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        loops::not_counting(&module).len()
    };
    for ends in [
        "for (var i = lane; i < n; i++) { out[i] = 0u; }",
        "for (var i = lane; i < out[0]; i += 4u * LANES) { if i == 3u { break; } }",
        "for (var i = n; i <= min(n, 7u); i += STEP) { for (var j = 8u; j > 0u; j /= 2u) { out[j] = i; } }",
    ] {
        assert_eq!(others(ends), 0, "{ends}");
    }
    for may_not in [
        "for (var i = lane; i < n; i += n) { out[i] = 0u; }",
        "for (var i = lane; i < n; i++) { i = 0u; }",
        "for (var i = lane; i < n; i++) { n++; }",
        "while n < 7u { out[n] = 0u; }",
        "loop { out[n] = 0u; }",
        "for (var i = lane; i < n; i -= 1u) { }",
    ] {
        assert_eq!(others(may_not), 1, "{may_not}");
    }
}

/// On a GPU the A's of layers with one input (q, k, v; gate, up) are one dispatch, and so are their gradients: launches and the waits between
/// them are what such small products cost.
#[test]
fn adapters_of_layers_with_one_input_are_dispatched_together() {
    let dispatches: Vec<Dispatch> =
        variants::calls_of_a_step(&DEFAULT_LIMITS, 512).into_iter().flat_map(|(_, all)| all).collect();
    let of = |kernel: &str| {
        dispatches.iter().filter(|dispatch| dispatch.kernel.name == kernel).map(|d| d.workgroups[2]).collect::<Vec<_>>()
    };
    for kernel in ["matmul_narrow_of_three", "matmul_outer_of_three"] {
        let found = of(kernel);
        let counts = [2, 3].map(|count| found.iter().filter(|&&products| products == count).count());
        assert_eq!(counts, [2, 2], "{kernel}: in each of the two layers");
    }
    eprintln!("{} dispatches in a step of two layers of SmolLM2", dispatches.len());
}

/// No kernel races in workgroup memory, and the check that says so sees every barrier: without any one of them, it finds a race. A barrier
/// whose absence makes none is one too many.
#[test]
fn every_barrier_is_needed_and_none_is_missing() {
    let groups: Vec<(String, Vec<Dispatch>)> = variants::small_dispatches().into_iter().collect();
    let findings: Vec<Findings> = groups.par_iter().map(|(name, dispatches)| barriers_of(name, dispatches)).collect();
    let mut failures: Vec<String> = findings.iter().flat_map(|found| found.races.clone()).collect();
    // Constants, such as the width of a head, change how long a shader's loops are and not where its barriers stand: a barrier is needed
    // if some form needs it, and a form that takes too long to interpret is like the others.
    let mut shaders: BTreeMap<&str, Vec<&Findings>> = BTreeMap::new();
    for ((_, dispatches), found) in groups.iter().zip(&findings) {
        shaders.entry(dispatches[0].kernel.shader).or_default().push(found);
    }
    let mut barriers = 0;
    for (shader, forms) in shaders {
        if forms.iter().all(|form| form.problem.is_some()) {
            failures.extend(forms.iter().filter_map(|form| form.problem.clone()));
            continue;
        }
        let reached: BTreeSet<usize> = forms.iter().flat_map(|form| form.reached.iter().copied()).collect();
        let missed: BTreeSet<usize> = forms.iter().flat_map(|form| form.missed.iter().copied()).collect();
        barriers += reached.len();
        failures
            .extend(reached.difference(&missed).map(|which| format!("{shader}: barrier {which} can go, and no race appears")));
        if reached.is_empty() && forms.iter().any(|form| form.shares) {
            failures.push(format!("{shader}: workgroup memory, and no barrier"));
        }
    }
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    eprintln!("{barriers} barriers in {} variants were taken away, one at a time", groups.len());
    assert!(barriers > 20, "{barriers}: the dispatches that kernels are interpreted with reach too little");
}

/// What interpreting one form of a kernel shows.
#[derive(Default)]
struct Findings {
    /// Whether it has workgroup memory.
    shares: bool,
    /// Races of the kernel as it is.
    races: Vec<String>,
    /// Barriers that are reached, by their place in the shader.
    reached: BTreeSet<usize>,
    /// Those without which a race appears.
    missed: BTreeSet<usize>,
    /// Why it could not be interpreted.
    problem: Option<String>,
}

/// The barriers that a kernel passes, and what is wrong with it.
fn barriers_of(name: &str, dispatches: &[Dispatch]) -> Findings {
    let resolve = |dispatch: &Dispatch| Variant { kernel: dispatch.kernel, constants: dispatch.constants.clone() }.resolve();
    let resolved = match resolve(&dispatches[0]) {
        Ok(resolved) if resolved.workgroup_bytes() == 0 => return Findings::default(),
        Ok(resolved) => resolved,
        Err(problem) => return Findings { problem: Some(format!("{name}: {problem}")), ..Findings::default() },
    };
    let module = &resolved.module;
    // Cooperative kernels have a subgroup for each quarter of their tile; others that know subgroups are one.
    let size: u32 = resolved.workgroup_size().iter().product();
    let subgroup = if dispatches[0].kernel.needs.cooperative.is_some() { size / 4 } else { size };
    let interpret = |module: &naga::Module, dispatch: &Dispatch| {
        races::run(&races::Dispatch { module, params: &dispatch.params, workgroups: dispatch.workgroups, subgroup })
    };
    // Products along 96 steps: several rounds of every tile, and few enough to be quick.
    let dispatches: Vec<Dispatch> = dispatches.iter().take(6).cloned().map(|dispatch| with_steps(dispatch, 96)).collect();
    // The dispatches with the most barriers show most; long ones are left out.
    let (mut runs, mut problems) = (Vec::new(), Vec::new());
    for dispatch in &dispatches {
        match interpret(module, dispatch) {
            Ok(run) => runs.push((run, dispatch)),
            Err(problem) => problems.push(problem),
        }
    }
    runs.sort_by_key(|(run, _)| std::cmp::Reverse(run.barriers));
    runs.truncate(2);
    if runs.is_empty() {
        let problem = Some(format!("{name}: not interpreted: {}", problems.join("; ")));
        return Findings { shares: true, problem, ..Findings::default() };
    }
    let races = runs.iter().filter_map(|(run, _)| run.race.as_ref().map(|race| format!("{name}: {race}"))).collect();
    let mut found = Findings { shares: true, races, ..Findings::default() };
    for which in 0..races::barriers(module) {
        let without = races::without_barrier(module, which);
        for (run, dispatch) in &runs {
            let Ok(without) = interpret(&without, dispatch) else { continue };
            if without.barriers < run.barriers {
                found.reached.insert(which);
            }
            if without.race.is_some() {
                found.missed.insert(which);
                // The others would say the same again.
                break;
            }
        }
    }
    found
}

/// The dispatch of a product, were it so long, and the rank of its low-rank term, if it has one.
fn with_steps(mut dispatch: Dispatch, steps: u32) -> Dispatch {
    for field in dispatch.kernel.params.iter().filter(|field| ["k", "rank"].contains(&field.name)) {
        let value = &mut dispatch.params[field.offset..field.offset + 4];
        if field.name == "k" || value != [0; 4] {
            value.copy_from_slice(&steps.to_le_bytes());
        }
    }
    dispatch
}

/// The detector on shaders of a few lines: a missing barrier in either order, one that only the next round of a loop needs, and accesses
/// that need none.
#[test]
fn planted_races_are_found() {
    let race = |body: &str| {
        let source = format!(
            "struct Params {{ rounds: u32 }}
            @group(0) @binding(0) var<uniform> params: Params;
            @group(0) @binding(1) var<storage, read_write> out: array<f32>;
            var<workgroup> shared_: array<f32, 16>;
            @compute @workgroup_size(8) fn main(@builtin(local_invocation_index) lane: u32) {{ {body} }}"
        );
        let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        let dispatch = races::Dispatch { module: &module, params: &3u32.to_le_bytes(), workgroups: [1, 1, 1], subgroup: 8 };
        races::run(&dispatch).unwrap_or_else(|problem| panic!("{problem}")).race
    };
    let store_load = "shared_[lane] = out[lane]; workgroupBarrier(); out[lane] = shared_[(lane + 1u) % 8u];";
    let rounds = |barrier: &str| format!("for (var r = 0u; r < params.rounds; r++) {{ {store_load} {barrier} }}");
    let tree = |barrier: &str| {
        format!(
            "shared_[lane] = out[lane]; workgroupBarrier();
            for (var half = 4u; half > 0u; half /= 2u) {{ if lane < half {{ shared_[lane] += shared_[lane + half]; }} {barrier} }}
            out[lane] = shared_[0];"
        )
    };
    for (body, races) in [
        (store_load.to_owned(), false),
        (store_load.replace("workgroupBarrier();", ""), true),
        ("out[lane] = shared_[(lane + 1u) % 8u]; shared_[lane] = 1.0;".into(), true),
        ("shared_[lane] = 1.0; out[lane] = shared_[lane];".into(), false),
        ("shared_[0] = out[lane];".into(), true),
        ("if out[0] > 0.5 { shared_[lane] = 1.0; } out[lane] = shared_[lane ^ 1u];".into(), true),
        (rounds("workgroupBarrier();"), false),
        (rounds(""), true),
        (tree("workgroupBarrier();"), false),
        (tree(""), true),
    ] {
        let found = race(&body);
        assert_eq!(found.is_some(), races, "{body}: {found:?}");
    }
}

/// No device is without a kernel: with WebGPU's default limits and features, every op of every graph has a full set.
#[test]
fn a_full_set_of_kernels_runs_everywhere() {
    let calls = variants::calls(&DEFAULT_LIMITS, &Tuning::NONE);
    let ops: BTreeSet<&str> = calls.iter().map(|(op, _)| *op).collect();
    for entry in registry() {
        assert!(ops.contains(entry.name), "{} has no example", entry.name);
    }
    for (op, dispatches) in calls {
        assert!(!dispatches.is_empty(), "{op} launches nothing");
        for dispatch in dispatches {
            assert_eq!(dispatch.kernel.needs, Needs::NONE, "{op} launches {}", dispatch.kernel.name);
        }
    }
}

/// On every kind of device, the kernels that are chosen are ones whose needs it meets.
#[test]
fn chosen_kernels_run_on_the_device_that_they_are_chosen_for() {
    for facts in variants::kinds_of_device() {
        for (op, dispatches) in variants::calls(&facts, &Tuning::NONE) {
            for dispatch in dispatches {
                assert!(dispatch.kernel.needs.met_by(&facts), "{op} launches {} on {facts:?}", dispatch.kernel.name);
            }
        }
    }
}

/// Even five million rows stay within the workgroups that one dispatch dimension allows.
#[test]
fn dispatches_of_many_rows_stay_within_a_dimension() {
    for facts in variants::kinds_of_device() {
        for (op, dispatches) in variants::calls_of_long_rows(&facts, &Tuning::NONE, 5_000_000) {
            for dispatch in dispatches {
                assert!(
                    dispatch.workgroups.iter().all(|&count| count <= MAX_WORKGROUPS),
                    "{op}: {} in {:?} workgroups on {facts:?}",
                    dispatch.kernel.name,
                    dispatch.workgroups
                );
            }
        }
    }
}

/// The registry lists every kernel that is launched anywhere, every `static ...: Kernel` of the ops, and uses every shader file.
#[test]
fn the_registry_lists_every_kernel() {
    let kernels: Vec<_> = registry().into_iter().flat_map(|entry| entry.kernels).collect();
    let names: BTreeSet<&str> = kernels.iter().map(|kernel| kernel.name).collect();
    assert_eq!(names.len(), kernels.len(), "two kernels share a name, or a kernel is listed twice");
    for variant in variants() {
        assert!(names.contains(variant.kernel.name), "{} is launched, but in no entry of the registry", variant.kernel.name);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for file in files_under(&root.join("src/ops"), "rs") {
        let text = std::fs::read_to_string(&file).unwrap();
        for declaration in text.split(": Kernel = Kernel {").skip(1) {
            let name = declaration
                .split("name: ")
                .nth(1)
                .and_then(|rest| rest.strip_prefix('"'))
                .and_then(|rest| rest.split('"').next());
            // A macro's declaration has no literal name; its kernels are found by their shader files.
            if let Some(name) = name {
                assert!(names.contains(name), "{}: kernel {name} is in no entry of the registry", file.display());
            }
        }
    }
    let used: BTreeSet<&str> =
        kernels.iter().flat_map(|kernel| shader::files(kernel).unwrap_or_else(|problem| panic!("{problem}"))).collect();
    for file in files_under(&root.join("shaders"), "wgsl") {
        assert!(
            file.file_stem().is_some_and(|stem| used.contains(&*stem.to_string_lossy())),
            "{}: no kernel of the registry uses it",
            file.display()
        );
    }
}

fn files_under(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_under(&path, extension));
        } else if path.extension().is_some_and(|found| found == extension) {
            files.push(path);
        }
    }
    files
}

/// A device with nothing beyond WebGPU's defaults is one of the kinds that are tested.
#[test]
fn kinds_of_device_include_the_plain_one() {
    let plain = Facts::default();
    assert_eq!(DEFAULT_LIMITS, plain);
    assert!(variants::kinds_of_device().contains(&plain));
}

//! The GPUs whose compilers are asked, and what their drivers call the figures that matter.

use crate::chosen::Chosen;
use crate::worker::Report;
use graftling::kernel::{Facts, Matrices};
use std::collections::BTreeMap;

/// A GPU that is not there, and the driver that compiles for it.
pub struct Gpu {
    pub name: &'static str,
    driver: &'static str,
    /// A variable that says which GPU the driver is to see.
    variable: Option<(&'static str, &'static str)>,
    /// Its smallest and largest subgroup.
    subgroup: (u32, u32),
    /// The cooperative matrices that it offers of those that graftling knows.
    matrices: Option<Matrices>,
}

const fn gpu(
    name: &'static str,
    driver: &'static str,
    variable: Option<(&'static str, &'static str)>,
    subgroup: (u32, u32),
) -> Gpu {
    Gpu { name, driver, variable, subgroup, matrices: None }
}

impl Gpu {
    const fn with_matrices(self, matrices: Matrices) -> Self {
        Self { matrices: Some(matrices), ..self }
    }
}

pub const GPUS: [Gpu; 9] = [
    gpu("Intel tgl", "intel", Some(("INTEL_STUB_GPU_PLATFORM", "tgl")), (8, 32)),
    gpu("Intel dg2", "intel", Some(("INTEL_STUB_GPU_PLATFORM", "dg2")), (8, 32)),
    gpu("Intel lnl", "intel", Some(("INTEL_STUB_GPU_PLATFORM", "lnl")), (16, 32)),
    gpu("NVIDIA Ampere", "nouveau", Some(("NOUVEAU_CHIPSET", "172")), (32, 32)).with_matrices(Matrices::F16x16),
    gpu("AMD navi31", "radeon", Some(("AMDGPU_GPU_ID", "navi31")), (32, 64)).with_matrices(Matrices::F16x16),
    gpu("AMD gfx1103", "radeon", Some(("AMDGPU_GPU_ID", "phoenix")), (32, 64)).with_matrices(Matrices::F16x16),
    gpu("Adreno X1", "freedreno", Some(("FD_GPU_ID", "740")), (64, 128)),
    gpu("Adreno 630", "freedreno", Some(("FD_GPU_ID", "630")), (64, 128)),
    gpu("Apple M1", "asahi", None, (32, 32)),
];

/// Memory of a whole subgroup that Apple's driver reserves for every kernel.
const APPLE_RESERVES: u64 = 1024;

impl Gpu {
    /// Runs this very program on the driver.
    pub fn command(&self, compilers: &std::path::Path) -> std::io::Result<std::process::Command> {
        let mut command = std::process::Command::new(compilers.join("on"));
        command.arg(self.driver).arg(std::env::current_exe()?).arg("--worker").envs(self.variable);
        Ok(command)
    }

    /// Would a kernel be chosen on it?
    pub fn takes(&self, chosen: &Chosen) -> bool {
        let Chosen { variant, with_narrow_subgroups } = chosen;
        let facts = Facts { subgroup: Some(self.subgroup), ..Facts::default() };
        let threads = variant.constants.iter().find(|(name, _)| *name == "THREADS").map(|(_, threads)| *threads);
        let of_a_workgroup = Some(f64::from(4 * self.subgroup.1));
        with_narrow_subgroups.contains(&facts.has_narrow_subgroups())
            && variant.kernel.needs.cooperative.is_none_or(|wanted| self.matrices == Some(wanted) && threads == of_a_workgroup)
    }

    pub fn figures(&self, report: &Report) -> Figures {
        let of = |name: &str| report.statistics.get(name).copied().unwrap_or(0);
        let named = |registers, waves, instructions, cycles, workgroup| Figures {
            subgroup: report.subgroup,
            registers: of(registers),
            waves: of(waves),
            instructions: of(instructions),
            cycles: of(cycles),
            workgroup_bytes: of(workgroup),
            ..Figures::default()
        };
        match self.driver {
            "intel" => Figures {
                spills: of("Spills") + of("Fills"),
                scratch: of("Scratch Memory Size"),
                ..named("Max live registers", "Max dispatch width", "Instructions", "Cycles", "Workgroup Memory Size")
            },
            "nouveau" => Figures {
                spills: of("Spills to memory") + of("Fills from memory"),
                scratch: of("SLM size"),
                ..named("Number of GPRs", "Max warps/SM", "Instruction count", "Static cycle count", "")
            },
            "radeon" => Figures {
                spills: of("Spilled VGPRs") + of("Spilled SGPRs"),
                scratch: of("Scratch size"),
                inner_loop: report.assembly.as_deref().and_then(inner_loop),
                ..named("VGPRs", "Subgroups per SIMD", "Instructions", "Inverse Throughput", "LDS size")
            },
            "freedreno" => Figures {
                spills: of("STP Count") + of("LDP Count"),
                ..named("Registers used", "Max Waves Per Core", "Instruction Count", "", "")
            },
            _ => Figures {
                // What it counts as spills in every kernel are moves of uniforms; a spill to memory takes scratch.
                spills: if of("Scratch") > APPLE_RESERVES { of("Spills") + of("Fills") } else { 0 },
                scratch: of("Scratch").saturating_sub(APPLE_RESERVES),
                ..named("GPRs", "Threads", "Instructions", "", "")
            },
        }
    }
}

/// What a kernel became, in common terms. 0 where the driver does not tell.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Invocations that run in step.
    pub subgroup: u32,
    /// Of an invocation; on Intel, the most that are live at once in a subgroup.
    pub registers: u64,
    /// Subgroups that a unit holds at once, in the driver's own count; on Intel, the widest subgroup that was possible.
    pub waves: u64,
    pub instructions: u64,
    /// By the driver's model; a loop of unknown length counts once.
    pub cycles: u64,
    pub workgroup_bytes: u64,
    /// Stores to memory for want of registers, and loads from there.
    pub spills: u64,
    /// Bytes of memory for what is in no register.
    pub scratch: u64,
    /// Instructions and multiply-adds of the innermost loop that has most of the latter.
    pub inner_loop: Option<(usize, usize)>,
}

/// AMD's assembly has blocks `BB7:`; a branch to one above closes a loop.
fn inner_loop(assembly: &str) -> Option<(usize, usize)> {
    let lines: Vec<&str> = assembly.lines().collect();
    let label = |line: &str| line.strip_suffix(':').filter(|name| name.starts_with("BB")).map(str::to_owned);
    let blocks: BTreeMap<String, usize> =
        lines.iter().enumerate().filter_map(|(at, line)| Some((label(line.split(' ').next()?)?, at))).collect();
    let loops: Vec<(usize, usize)> = (lines.iter().enumerate())
        .filter(|(_, line)| line.trim_start().starts_with("s_branch") || line.trim_start().starts_with("s_cbranch"))
        .filter_map(|(at, line)| Some((*blocks.get(line.split_whitespace().nth(1)?)?, at)))
        .filter(|(target, at)| target <= at)
        .collect();
    let innermost = loops.iter().filter(|(from, to)| !loops.iter().any(|(a, b)| (a, b) != (from, to) && a >= from && b <= to));
    innermost
        .map(|&(from, to)| {
            let code = lines[from..=to].iter().filter(|line| line.starts_with('\t'));
            let multiply_adds = |line: &str| -> usize {
                let packed = if line.contains("v_pk_fma") || line.contains("v_dot2") { 2 } else { 1 };
                let names = ["v_fma", "v_pk_fma", "v_dual_fma", "v_dot2"];
                line.split_whitespace().filter(|word| names.iter().any(|name| word.starts_with(name))).count() * packed
            };
            (code.clone().count(), code.map(|line| multiply_adds(line)).sum())
        })
        .max_by_key(|&(_, multiply_adds)| multiply_adds)
}

/// That the loop with most multiply-adds is found.
pub fn check_reading_of_assembly() {
    let assembly = "BB0:\n\tv_fma_f32 v0, v1\nBB1:\n\ts_nop 0\nBB2:\n\tv_fmac_f32 v0, v1 ; 01\n\tv_dual_fmac_f32 v0, v1 :: v_dual_fmac_f32 v2, v3\n\t\
        s_cbranch_scc0 BB2 ; 02\n\ts_branch BB1\nBB3:\n\ts_endpgm";
    assert_eq!(inner_loop(assembly), Some((3, 3)));
}

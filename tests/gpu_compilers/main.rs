//! Every kernel that is chosen on GPUs, compiled by the compilers of five vendors, none of whose GPUs need be there. `tools/gpu-compilers`
//! fetches them, and `./tools/test --gpu-compilers` runs this; without `GRAFTLING_GPU_COMPILERS`, the folder with them, nothing is checked.
//!
//! A kernel whose values find no room in registers and go to memory is a defect, and so is one that takes more workgroup memory than its
//! WGSL declares, or that a compiler refuses. With `--table` the figures are printed.

mod chosen;
mod gpus;
#[allow(dead_code)] // other tests use the rest
#[path = "../portability/translate.rs"]
mod translate;
#[allow(dead_code)]
#[path = "../portability/variants.rs"]
mod variants;
mod worker;

use chosen::Chosen;
use gpus::{Figures, GPUS, Gpu};
use naga::proc::BoundsCheckPolicy;
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::sync::Mutex;
use worker::Report;

/// A kernel in SPIR-V, as it lies in a file.
struct Written {
    chosen: Chosen,
    name: String,
    file: PathBuf,
    /// Bytes of workgroup memory that its WGSL declares.
    workgroup_bytes: u32,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|argument| argument == "--worker") {
        worker::run();
        return ExitCode::SUCCESS;
    }
    gpus::check_reading_of_assembly();
    let Some(compilers) = std::env::var_os("GRAFTLING_GPU_COMPILERS").map(PathBuf::from) else {
        println!("not checked: ./tools/test --gpu-compilers fetches the compilers of GPUs and runs this");
        return ExitCode::SUCCESS;
    };
    let folder = tempfile::tempdir().expect("a folder for kernels");
    let written: Vec<Written> =
        chosen::on_gpus().into_iter().enumerate().map(|(number, chosen)| write(folder.path(), number, chosen)).collect();
    let all = compile_all(&compilers, &written);
    if arguments.iter().any(|argument| argument == "--table") {
        print_table(&all);
    }
    let mut failures = 0;
    for (gpu, reports) in &all {
        for (kernel, report) in reports {
            for problem in problems(gpu, kernel, report) {
                println!("{}: {}: {problem}", gpu.name, kernel.name);
                failures += 1;
            }
        }
    }
    let compiled: usize = all.iter().map(|(_, reports)| reports.len()).sum();
    println!("{} kernels for {} GPUs, {compiled} in all: {failures} defects", written.len(), GPUS.len());
    ExitCode::from(u8::from(failures > 0))
}

fn write(folder: &Path, number: usize, chosen: Chosen) -> Written {
    let variant = &chosen.variant;
    let kernel = variant.resolve().unwrap_or_else(|problem| panic!("{variant}: {problem}"));
    let words = translate::spirv_words(&kernel, (1, 6), BoundsCheckPolicy::Unchecked)
        .unwrap_or_else(|problem| panic!("{variant}: {problem}"));
    let file = folder.join(format!("{number}.spv"));
    std::fs::write(&file, bytemuck::cast_slice::<u32, u8>(&words)).expect("room for kernels");
    let constants: Vec<String> = variant.constants.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let name = format!("{} {}", variant.kernel.name, constants.join(" ")).trim_end().to_owned();
    Written { name, file, workgroup_bytes: kernel.workgroup_bytes(), chosen }
}

/// Two GPUs at a time: each driver compiles on one core.
fn compile_all<'a>(compilers: &Path, kernels: &'a [Written]) -> Vec<(&'static Gpu, Vec<(&'a Written, Report)>)> {
    let (next, done) = (Mutex::new(GPUS.iter().enumerate()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from).min(GPUS.len()) {
            scope.spawn(|| {
                loop {
                    let Some((place, gpu)) = next.lock().expect("no thread panics here").next() else { return };
                    let taken: Vec<&Written> = kernels.iter().filter(|kernel| gpu.takes(&kernel.chosen)).collect();
                    let reports = compile(gpu, compilers, &taken).unwrap_or_else(|error| panic!("{}: {error}", gpu.name));
                    done.lock().expect("no thread panics here").push((place, gpu, reports));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no thread panicked");
    done.sort_by_key(|(place, ..)| *place);
    done.into_iter().map(|(_, gpu, reports)| (gpu, reports)).collect()
}

/// A driver that dies of a kernel is started again with the next one.
fn compile<'a>(gpu: &Gpu, compilers: &Path, kernels: &[&'a Written]) -> std::io::Result<Vec<(&'a Written, Report)>> {
    let mut reports = Vec::new();
    while reports.len() < kernels.len() {
        let before = reports.len();
        let mut driver = gpu.command(compilers)?.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut names = driver.stdin.take().expect("it is piped");
        let waiting =
            kernels[before..].iter().map(|kernel| kernel.file.to_string_lossy().into_owned() + "\n").collect::<String>();
        let writer = std::thread::spawn(move || names.write_all(waiting.as_bytes()));
        for line in BufReader::new(driver.stdout.take().expect("it is piped")).lines() {
            // Drivers without a kernel module below them say so here.
            if let Ok(report) = serde_json::from_str::<Report>(&line?) {
                reports.push((kernels[reports.len()], report));
            }
        }
        let status = driver.wait()?;
        let _ = writer.join();
        if reports.len() < kernels.len() {
            let error = Some(format!("the driver died: {status}"));
            reports.push((kernels[reports.len()], Report { error, ..Report::default() }));
            if before == 0 && reports.len() == 1 {
                return Err(std::io::Error::other(format!("the driver does not start: {status}")));
            }
        }
    }
    Ok(reports)
}

fn problems(gpu: &Gpu, kernel: &Written, report: &Report) -> Vec<String> {
    if let Some(error) = &report.error {
        return vec![error.clone()];
    }
    let figures = gpu.figures(report);
    let mut problems = Vec::new();
    if figures.spills > 0 || figures.scratch > 0 {
        problems.push(format!("{} spills and fills, {} bytes of scratch", figures.spills, figures.scratch));
    }
    // Allocated in steps of at most 1 KiB.
    if figures.workgroup_bytes > u64::from(kernel.workgroup_bytes.next_multiple_of(1024)) {
        problems.push(format!("{} bytes of workgroup memory, {} declared", figures.workgroup_bytes, kernel.workgroup_bytes));
    }
    problems
}

fn print_table(all: &[(&Gpu, Vec<(&Written, Report)>)]) {
    println!(
        "| kernel | GPU | subgroup | registers | waves | workgroup bytes | instructions | multiply-adds / instructions of the inner loop | cycles | spills | scratch |"
    );
    println!("|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    let names: BTreeSet<&str> = all.iter().flat_map(|(_, reports)| reports).map(|(kernel, _)| kernel.name.as_str()).collect();
    for name in names {
        for (gpu, reports) in all {
            let Some((kernel, report)) = reports.iter().find(|(kernel, _)| kernel.name == name) else { continue };
            if let Some(error) = &report.error {
                println!("| {name} | {} | {error} | | | | | | | | |", gpu.name);
                continue;
            }
            let Figures { subgroup, registers, waves, instructions, cycles, spills, scratch, inner_loop, .. } =
                gpu.figures(report);
            let inner = inner_loop.map_or(String::new(), |(all, multiply_adds)| format!("{multiply_adds} / {all}"));
            let told = |figure: u64| if figure > 0 { figure.to_string() } else { String::new() };
            println!(
                "| {name} | {} | {subgroup} | {registers} | {waves} | {} | {instructions} | {inner} | {} | {spills} | {scratch} |",
                gpu.name,
                kernel.workgroup_bytes,
                told(cycles)
            );
        }
    }
}

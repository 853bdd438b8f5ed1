//! Makes the table of shader files that `src/kernel/shader.rs` composes kernels from: every .wgsl file below `shaders/`, by its stem.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR").map_err(io::Error::other)?).join("shaders");
    let mut table = String::from("&[\n");
    let mut entries = Vec::new();
    for folder in [root.clone(), root.join("common")] {
        println!("cargo::rerun-if-changed={}", folder.display());
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "wgsl") {
                entries.push(path);
            }
        }
    }
    entries.sort();
    for path in entries {
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        table += &format!("    ({stem:?}, include_str!({:?})),\n", path.display().to_string());
    }
    table += "]\n";
    fs::write(Path::new(&env::var("OUT_DIR").map_err(io::Error::other)?).join("shaders.rs"), table)
}

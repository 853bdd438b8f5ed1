//! Kernels are composed of .wgsl files, each of which names the parts that it needs itself, in its first line:
//!
//! ```text
//! // uses: wide_loads, matmul_io, {weights}
//! ```
//!
//! A plain name is a file of `shaders/common/`. A name in braces is a *slot*: which part fills it, the [`Kernel`] says; where it says
//! nothing, `{slot=part}` names the part. So one algorithm is written once and composed with every loader of weights. A kernel's source is
//! its own file behind all parts that it reaches, each once and behind those that it uses itself; parts with directives (`enable f16;`)
//! stand at the very beginning, as WGSL demands.

use super::Kernel;

/// Every shader file: its stem and its text.
const FILES: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/shaders.rs"));

/// How the line begins that names the parts of a file.
const USES: &str = "// uses: ";

/// The stems of the files that a kernel consists of, its own last.
///
/// # Errors
/// Names a file that there is not, a slot that the kernel does not fill, or one that it fills and nothing uses.
pub fn files(kernel: &Kernel) -> Result<Vec<&'static str>, String> {
    let mut composition = Composition { kernel, files: Vec::new(), filled: Vec::new() };
    composition.add(kernel.shader)?;
    if let Some((slot, part)) = kernel.slots.iter().find(|(slot, _)| !composition.filled.contains(slot)) {
        return Err(format!("kernel {}: nothing has a slot {{{slot}}} for {part}", kernel.name));
    }
    let mut files = composition.files;
    files.sort_by_key(|stem| text(stem).is_none_or(|text| !text.lines().any(|line| line.starts_with("enable "))));
    Ok(files)
}

/// The files that a kernel consists of, its own last: where each is in the repository, and its text.
///
/// # Errors
/// As [`files`].
pub fn parts(kernel: &Kernel) -> Result<Vec<(String, &'static str)>, String> {
    let path = |stem: &str| match stem == kernel.shader {
        true => format!("shaders/{stem}.wgsl"),
        false => format!("shaders/common/{stem}.wgsl"),
    };
    Ok(files(kernel)?.into_iter().filter_map(|stem| Some((path(stem), text(stem)?))).collect())
}

/// The kernel's WGSL, its parts joined.
///
/// # Errors
/// As [`files`].
pub fn source(kernel: &Kernel) -> Result<String, String> {
    Ok(files(kernel)?.into_iter().filter_map(text).collect::<Vec<_>>().join("\n"))
}

fn text(stem: &str) -> Option<&'static str> {
    FILES.iter().find(|(known, _)| *known == stem).map(|(_, text)| *text)
}

struct Composition<'a> {
    kernel: &'a Kernel,
    files: Vec<&'static str>,
    /// Slots that were met.
    filled: Vec<&'a str>,
}

impl Composition<'_> {
    fn add(&mut self, stem: &str) -> Result<(), String> {
        let name = self.kernel.name;
        let &(stem, text) =
            FILES.iter().find(|(known, _)| *known == stem).ok_or_else(|| format!("kernel {name}: there is no {stem}.wgsl"))?;
        if self.files.contains(&stem) {
            return Ok(());
        }
        let uses = text.lines().next().and_then(|line| line.strip_prefix(USES)).unwrap_or_default();
        for part in uses.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match part.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) {
                None => self.add(part)?,
                Some(slot) => {
                    let (slot, usual) = slot.split_once('=').map_or((slot, None), |(slot, part)| (slot, Some(part)));
                    let filled = self.kernel.slots.iter().find(|(known, _)| *known == slot).map(|(_, part)| *part);
                    let part = (filled.or(usual))
                        .ok_or_else(|| format!("kernel {name}: {stem}.wgsl has a slot {{{slot}}}, which is empty"))?;
                    self.filled.push(slot);
                    self.add(part)?;
                }
            }
        }
        self.files.push(stem);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Needs;

    fn composed(shader: &'static str, slots: &'static [(&'static str, &'static str)]) -> Result<Vec<&'static str>, String> {
        files(&Kernel { name: "planted", shader, slots, constants: &[], params: &[], needs: Needs::NONE, unchecked: false })
    }

    #[test]
    fn parts_come_once_and_before_those_that_use_them() {
        let slots = &[
            ("activations", "activations_f32"),
            ("product", "whole_product"),
            ("weights", "weights_q4_1"),
            ("words", "words_plain"),
            ("tile", "tile_f16"),
        ];
        let files = composed("matmul_tiled", slots).unwrap();
        let place = |stem: &str| files.iter().position(|file| *file == stem).unwrap();
        assert!(files.iter().all(|file| files.iter().filter(|other| *other == file).count() == 1), "{files:?}");
        assert_eq!(place("enable_f16"), 0, "directives first: {files:?}");
        assert!(place("weights_q4_1") < place("matmul_operands") && place("matmul_operands") < place("tile_f16"));
        assert_eq!(place("matmul_tiled"), files.len() - 1);
    }

    #[test]
    fn what_cannot_be_composed_is_named() {
        assert!(composed("no_such_shader", &[]).unwrap_err().contains("no_such_shader.wgsl"));
        assert!(composed("rms_norm", &[]).unwrap_err().contains("{row_sum}"));
        assert!(composed("rms_norm", &[("row_sum", "no_such_part")]).unwrap_err().contains("no_such_part.wgsl"));
        let superfluous = composed("add", &[("weights", "weights_f32")]).unwrap_err();
        assert!(superfluous.contains("{weights}"), "{superfluous}");
    }
}

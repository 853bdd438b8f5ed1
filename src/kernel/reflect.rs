//! Reads from a kernel's WGSL what the host must know: bindings, parameter struct, workgroup size, workgroup memory.

use super::shader;
use super::{Kernel, ParamField};
use naga::{AddressSpace, ScalarKind, StorageAccess, TypeInner};

/// What stands at a binding of group 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BindingKind {
    /// The parameter struct, with its size in bytes.
    Uniform(u32),
    StorageRead,
    StorageReadWrite,
}

/// The interface of one kernel.
#[derive(Clone, Debug)]
pub struct Interface {
    /// Kinds of bindings 0, 1, 2, ...
    pub bindings: Vec<BindingKind>,
    /// Parameter struct as the shader declares it: name, "u32" or "f32", offset.
    pub params: Vec<(String, &'static str, usize)>,
}

/// Parses a kernel and describes its interface.
///
/// # Errors
/// Says what is wrong with the shader: it lacks a part, does not parse, bindings have gaps, or the parameter struct differs from the Rust
/// struct.
pub fn interface(kernel: &Kernel) -> Result<Interface, String> {
    interface_of(kernel.name, &shader::source(kernel)?, kernel.params)
}

/// [`interface`] of the WGSL of a kernel with this name, whose parameter struct has these fields in Rust.
///
/// # Errors
/// As [`interface`].
pub fn interface_of(kernel: &str, source: &str, expected: &[ParamField]) -> Result<Interface, String> {
    let module = naga::front::wgsl::parse_str(source).map_err(|error| error.emit_to_string_with_path(source, kernel))?;
    let mut bindings: Vec<(u32, BindingKind)> = Vec::new();
    let mut params = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(binding) = variable.binding else { continue };
        let kind = match variable.space {
            AddressSpace::Uniform => {
                let TypeInner::Struct { members, span } = &module.types[variable.ty].inner else {
                    return Err(format!("kernel {kernel}: the uniform is not a struct"));
                };
                for member in members {
                    params.push((member.name.clone().unwrap_or_default(), scalar(&module, member.ty), member.offset as usize));
                }
                BindingKind::Uniform(*span)
            }
            AddressSpace::Storage { access } if access.contains(StorageAccess::STORE) => BindingKind::StorageReadWrite,
            AddressSpace::Storage { .. } => BindingKind::StorageRead,
            other => return Err(format!("kernel {kernel}: binding in address space {other:?}")),
        };
        bindings.push((binding.binding, kind));
    }
    bindings.sort_by_key(|(index, _)| *index);
    if bindings.iter().enumerate().any(|(expected, (index, _))| expected as u32 != *index) {
        return Err(format!("kernel {kernel}: bindings are not 0, 1, 2, ..."));
    }
    let same = params.len() == expected.len()
        && params.iter().zip(expected).all(|((name, scalar, offset), field)| {
            *field == ParamField { name: field.name, scalar, offset: *offset } && name == field.name
        });
    if !same {
        return Err(format!("kernel {kernel}: Params is {params:?} in WGSL and {expected:?} in Rust"));
    }
    Ok(Interface { bindings: bindings.into_iter().map(|(_, kind)| kind).collect(), params })
}

fn scalar(module: &naga::Module, ty: naga::Handle<naga::Type>) -> &'static str {
    match module.types[ty].inner {
        TypeInner::Scalar(naga::Scalar { kind: ScalarKind::Uint, width: 4 }) => "u32",
        TypeInner::Scalar(naga::Scalar { kind: ScalarKind::Float, width: 4 }) => "f32",
        _ => "another type",
    }
}

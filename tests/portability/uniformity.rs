//! A check that naga does not make: barriers and subgroup operations stand in uniform control flow, that is, all invocations of a
//! workgroup reach them together. Elsewhere they hang some GPUs and read garbage on others, and may seem to work on a third.
//!
//! The analysis follows WGSL's uniformity rules (https://www.w3.org/TR/WGSL/#uniformity) on naga's IR, more strictly where that is simpler.
//! A value is uniform if it is made of constants, parameters, `workgroup_id`, `num_workgroups` and read-only buffers at uniform places.
//! A variable is uniform as long as only uniform values are stored to it, in uniform control flow. After a return that only some
//! invocations take, nothing is uniform; after such a break or continue, nothing in that loop is. What a subgroup reduces or broadcasts
//! is uniform where the workgroup is one subgroup.

use naga::{
    AddressSpace, Arena, Binding, Block, BuiltIn, CollectiveOperation, Expression, Function, FunctionArgument, GatherMode,
    Handle, LocalVariable, Module, Statement, StorageAccess,
};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};

/// Checks `main`. `one_subgroup`: the kernel runs only where its workgroup is a single subgroup.
///
/// # Errors
/// Which operation stands in control flow that is not uniform, or what the analysis does not know.
pub fn check(module: &Module, one_subgroup: bool) -> Result<(), String> {
    let main = &module.entry_points[0].function;
    let arguments: Vec<bool> = main.arguments.iter().map(is_uniform_builtin).collect();
    Analysis { module, one_subgroup, known: RefCell::default() }.function(main, &arguments, true).map(|_| ())
}

fn is_uniform_builtin(argument: &FunctionArgument) -> bool {
    matches!(
        argument.binding,
        Some(Binding::BuiltIn(BuiltIn::WorkGroupId | BuiltIn::NumWorkGroups | BuiltIn::WorkGroupSize | BuiltIn::NumSubgroups))
    )
}

struct Analysis<'a> {
    module: &'a Module,
    one_subgroup: bool,
    /// What was found of each function, by the uniformity of its arguments and of the control flow that calls it.
    known: RefCell<HashMap<(Handle<Function>, Vec<bool>, bool), Result<bool, String>>>,
}

/// One function, called with arguments of known uniformity.
struct Call<'a> {
    analysis: &'a Analysis<'a>,
    function: &'a Function,
    arguments: &'a [bool],
    /// Variables that may differ between invocations.
    varying: HashSet<Handle<LocalVariable>>,
    /// Results of calls and of subgroup operations that may differ.
    varying_results: HashSet<Handle<Expression>>,
    /// Every result is uniform, as far as returns were seen.
    returns_uniform: bool,
    changed: bool,
}

/// How control flow goes on after a statement.
#[derive(Clone, Copy, Default)]
struct Left {
    /// Some invocations, but not all, have returned.
    function: bool,
    /// Some invocations, but not all, have left the loop or skipped the rest of its body.
    loop_body: bool,
}

impl Analysis<'_> {
    /// [`Analysis::function`], once for each kind of call: small functions that call small ones would else be walked again and again.
    fn called(&self, function: Handle<Function>, arguments: &[bool], uniform: bool) -> Result<bool, String> {
        let kind = (function, arguments.to_vec(), uniform);
        if let Some(known) = self.known.borrow().get(&kind) {
            return known.clone();
        }
        let result = self.function(&self.module.functions[function], arguments, uniform);
        self.known.borrow_mut().insert(kind, result.clone());
        result
    }

    /// Is the function's result uniform? Called in uniform control flow or not.
    fn function(&self, function: &Function, arguments: &[bool], uniform: bool) -> Result<bool, String> {
        let mut call = Call {
            analysis: self,
            function,
            arguments,
            varying: HashSet::new(),
            varying_results: HashSet::new(),
            returns_uniform: true,
            changed: false,
        };
        // A variable that is stored to late in a loop is read early in it, so facts are gathered until none is new; only then are
        // barriers judged.
        loop {
            call.changed = false;
            call.block(&function.body, uniform, false)?;
            if !call.changed {
                break;
            }
        }
        call.block(&function.body, uniform, true)?;
        Ok(call.returns_uniform)
    }
}

impl Call<'_> {
    fn expressions(&self) -> &Arena<Expression> {
        &self.function.expressions
    }

    /// Does this expression have the same value in all invocations? For a pointer: does it point to the same place, and is what lies
    /// there the same?
    fn is_uniform(&self, handle: Handle<Expression>) -> bool {
        let all = |handles: &[Handle<Expression>]| handles.iter().all(|&handle| self.is_uniform(handle));
        match &self.expressions()[handle] {
            Expression::Literal(_) | Expression::Constant(_) | Expression::Override(_) | Expression::ZeroValue(_) => true,
            Expression::Compose { components, .. } => all(components),
            Expression::Access { base, index } => all(&[*base, *index]),
            Expression::AccessIndex { base, .. } => self.is_uniform(*base),
            Expression::Splat { value, .. } => self.is_uniform(*value),
            Expression::Swizzle { vector, .. } => self.is_uniform(*vector),
            Expression::FunctionArgument(index) => self.arguments.get(*index as usize).copied().unwrap_or(false),
            Expression::GlobalVariable(global) => match self.analysis.module.global_variables[*global].space {
                AddressSpace::Uniform => true,
                AddressSpace::Storage { access } => !access.contains(StorageAccess::STORE),
                _ => false,
            },
            Expression::LocalVariable(variable) => !self.varying.contains(variable),
            Expression::Load { pointer } => self.is_uniform(*pointer),
            Expression::Unary { expr, .. } | Expression::As { expr, .. } => self.is_uniform(*expr),
            Expression::Binary { left, right, .. } => all(&[*left, *right]),
            Expression::Select { condition, accept, reject } => all(&[*condition, *accept, *reject]),
            Expression::Relational { argument, .. } => self.is_uniform(*argument),
            Expression::Math { arg, arg1, arg2, arg3, .. } => {
                self.is_uniform(*arg) && [arg1, arg2, arg3].into_iter().flatten().all(|&handle| self.is_uniform(handle))
            }
            Expression::ArrayLength(_) | Expression::WorkGroupUniformLoadResult { .. } => true,
            Expression::CallResult(_) | Expression::SubgroupOperationResult { .. } | Expression::SubgroupBallotResult => {
                !self.varying_results.contains(&handle)
            }
            _ => false,
        }
    }

    fn vary(&mut self, pointer: Handle<Expression>) {
        match &self.expressions()[pointer] {
            Expression::LocalVariable(variable) => {
                let variable = *variable;
                self.changed |= self.varying.insert(variable);
            }
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => {
                let base = *base;
                self.vary(base);
            }
            _ => {}
        }
    }

    /// Walks a block that is entered in uniform control flow or not. With `judge`, what may stand in uniform control flow only is an
    /// error elsewhere.
    fn block(&mut self, block: &Block, mut uniform: bool, judge: bool) -> Result<Left, String> {
        let mut left = Left::default();
        for statement in block.iter() {
            let after = self.statement(statement, uniform, judge)?;
            left.function |= after.function;
            left.loop_body |= after.loop_body;
            uniform &= !after.function && !after.loop_body;
        }
        Ok(left)
    }

    fn statement(&mut self, statement: &Statement, uniform: bool, judge: bool) -> Result<Left, String> {
        let demand = |what: &str| {
            if judge && !uniform { Err(format!("{what} in control flow that is not uniform")) } else { Ok(Left::default()) }
        };
        match statement {
            Statement::Emit(_) => Ok(Left::default()),
            Statement::Block(block) => self.block(block, uniform, judge),
            Statement::If { condition, accept, reject } => {
                let inner = uniform && self.is_uniform(*condition);
                let (accepted, rejected) = (self.block(accept, inner, judge)?, self.block(reject, inner, judge)?);
                Ok(Left { function: accepted.function || rejected.function, loop_body: accepted.loop_body || rejected.loop_body })
            }
            Statement::Switch { selector, cases } => {
                let inner = uniform && self.is_uniform(*selector);
                let mut left = Left::default();
                for case in cases {
                    let after = self.block(&case.body, inner, judge)?;
                    left.function |= after.function;
                    // A break leaves the switch only, but what follows in the case is skipped; taken as if it left the loop.
                    left.loop_body |= after.loop_body;
                }
                Ok(left)
            }
            Statement::Loop { body, continuing, break_if } => {
                // What some invocations leave early, the others go round without them: then nothing in the loop is uniform.
                let breaks_uniform = |call: &Self| break_if.is_none_or(|condition| call.is_uniform(condition));
                let mut inner = uniform;
                let first = self.block(body, inner, false)?;
                let then = self.block(continuing, inner && !first.loop_body && !first.function, false)?;
                inner &= !(first.function || first.loop_body || then.function || then.loop_body) && breaks_uniform(self);
                let body_left = self.block(body, inner, judge)?;
                let left = self.block(continuing, inner, judge)?;
                Ok(Left { function: body_left.function || left.function, loop_body: false })
            }
            Statement::Break | Statement::Continue => Ok(Left { function: false, loop_body: !uniform }),
            Statement::Return { value } => {
                let same = uniform && value.is_none_or(|value| self.is_uniform(value));
                self.changed |= self.returns_uniform && !same;
                self.returns_uniform &= same;
                Ok(Left { function: !uniform, loop_body: false })
            }
            Statement::ControlBarrier(_) => demand("a barrier"),
            Statement::MemoryBarrier(_) => Ok(Left::default()),
            Statement::WorkGroupUniformLoad { .. } => demand("workgroupUniformLoad"),
            Statement::CooperativeStore { .. } => demand("coopStore"),
            Statement::SubgroupBallot { result, .. } => {
                self.subgroup_result(*result, uniform);
                demand("subgroupBallot")
            }
            Statement::SubgroupGather { mode, result, .. } => {
                let same = match mode {
                    GatherMode::BroadcastFirst => true,
                    GatherMode::Broadcast(lane) => self.is_uniform(*lane),
                    _ => false,
                };
                self.subgroup_result(*result, uniform && same);
                demand("a subgroup exchange")
            }
            Statement::SubgroupCollectiveOperation { collective_op, result, .. } => {
                self.subgroup_result(*result, uniform && *collective_op == CollectiveOperation::Reduce);
                demand("a subgroup operation")
            }
            Statement::Store { pointer, value } => {
                let to_known_place = match &self.expressions()[*pointer] {
                    Expression::Access { index, .. } => self.is_uniform(*index),
                    _ => true,
                };
                if !uniform || !to_known_place || !self.is_uniform(*value) {
                    self.vary(*pointer);
                }
                Ok(Left::default())
            }
            Statement::Call { function, arguments, result } => {
                // A function may store through a pointer that it is given.
                for &argument in arguments {
                    self.vary_if_pointer(argument);
                }
                let known: Vec<bool> = arguments.iter().map(|&argument| self.is_uniform(argument)).collect();
                let called = &self.analysis.module.functions[*function];
                let name = called.name.as_deref().unwrap_or("a function");
                // Facts about variables are not final before the last walk, and neither is what a callee may be blamed for.
                let judged = if judge { uniform } else { true };
                let same = match self.analysis.called(*function, &known, judged) {
                    Ok(same) => same,
                    Err(problem) if judge => return Err(format!("{name}: {problem}")),
                    Err(_) => false,
                };
                if let Some(result) = result
                    && (!same || !uniform)
                {
                    self.changed |= self.varying_results.insert(*result);
                }
                Ok(Left::default())
            }
            other => Err(format!("the analysis does not know {other:?}")),
        }
    }

    /// Notes a subgroup operation's result: the same in the whole subgroup, or not.
    fn subgroup_result(&mut self, result: Handle<Expression>, same: bool) {
        if !same || !self.analysis.one_subgroup {
            self.changed |= self.varying_results.insert(result);
        }
    }

    fn vary_if_pointer(&mut self, argument: Handle<Expression>) {
        if matches!(
            self.expressions()[argument],
            Expression::LocalVariable(_) | Expression::Access { .. } | Expression::AccessIndex { .. }
        ) {
            self.vary(argument);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `main` with this body, in a shader with a parameter, a buffer of each kind and a function that has a barrier.
    fn verdict(body: &str) -> Result<(), String> {
        verdict_for(body, false)
    }

    fn verdict_for(body: &str, one_subgroup: bool) -> Result<(), String> {
        let source = format!(
            "struct Params {{ count: u32 }}
            @group(0) @binding(0) var<uniform> params: Params;
            @group(0) @binding(1) var<storage, read> x: array<u32>;
            @group(0) @binding(2) var<storage, read_write> y: array<u32>;
            var<workgroup> shared_words: array<u32, 64>;
            fn together(own: u32) -> u32 {{ workgroupBarrier(); return own; }}
            fn store(place: ptr<function, u32>, value: u32) {{ *place = value; }}
            fn early(lane: u32) -> u32 {{ if lane > 3u {{ return 1u; }} return 2u; }}
            @compute @workgroup_size(64)
            fn main(@builtin(workgroup_id) group: vec3u, @builtin(num_workgroups) groups: vec3u, @builtin(local_invocation_index) lane: u32) {{
                {body}
            }}"
        );
        let module = naga::front::wgsl::parse_str(&source).unwrap_or_else(|error| panic!("{}", error.emit_to_string(&source)));
        check(&module, one_subgroup)
    }

    #[test]
    fn a_subgroup_agrees_with_itself_only() {
        for (body, passes) in [
            ("if subgroupMax(lane) > 3u { workgroupBarrier(); }", true),
            ("if subgroupBroadcast(lane, 2u) > 3u { workgroupBarrier(); }", true),
            ("for (var k = subgroupMin(lane); k <= subgroupMax(lane); k++) { y[k] = subgroupAdd(k); }", true),
            ("if subgroupInclusiveAdd(lane) > 3u { workgroupBarrier(); }", false),
            ("if subgroupShuffleXor(lane, 1u) > 3u { workgroupBarrier(); }", false),
            ("if lane > 3u { y[lane] = subgroupAdd(lane); }", false),
            ("for (var k = lane; k < 8u; k++) { y[k] = subgroupAdd(k); }", false),
        ] {
            assert_eq!(verdict_for(body, true).is_ok(), passes, "{body}");
            assert!(verdict_for(body, false).is_err(), "{body}");
        }
    }

    #[test]
    fn uniform_control_flow_passes() {
        for body in [
            "workgroupBarrier();",
            "if group.x >= params.count { return; } workgroupBarrier();",
            "for (var half = 32u; half > 0u; half /= 2u) { if lane < half { y[lane] = 1u; } workgroupBarrier(); }",
            "for (var k = 0u; k < params.count; k += 4u) { workgroupBarrier(); }",
            "for (var c = lane; c < params.count; c += 64u) { y[c] = 1u; } workgroupBarrier();",
            "if lane == 0u { y[0] = 1u; } y[lane] = together(lane);",
            "if x[group.x] == 1u { workgroupBarrier(); }",
            "for (var k = 0u; k < 8u; k++) { if x[k] == 0u { break; } workgroupBarrier(); }",
            "y[lane] = together(early(lane)); workgroupBarrier();",
            "shared_words[lane] = 1u; let n = workgroupUniformLoad(&shared_words[0]); if n > 3u { workgroupBarrier(); }",
        ] {
            assert_eq!(verdict(body), Ok(()), "{body}");
        }
    }

    #[test]
    fn barriers_that_not_all_reach_are_found() {
        for body in [
            "if lane < 32u { workgroupBarrier(); }",
            "if lane >= params.count { return; } workgroupBarrier();",
            "for (var c = lane; c < params.count; c += 64u) { workgroupBarrier(); }",
            "for (var c = 0u; c < 8u; c++) { if lane == c { break; } workgroupBarrier(); }",
            "for (var c = 0u; c < 8u; c++) { workgroupBarrier(); if lane == c { continue; } y[c] = 1u; if c == lane { break; } }",
            "if lane < 32u { y[lane] = together(lane); }",
            "var n = 4u; if lane == 0u { n = 8u; } for (var c = 0u; c < n; c++) { workgroupBarrier(); }",
            "var n = 0u; for (var c = 0u; c < 8u; c++) { if n > 3u { workgroupBarrier(); } n += lane; }",
            "if y[group.x] == 1u { workgroupBarrier(); }",
            "if shared_words[0] == 1u { workgroupBarrier(); }",
            "if x[lane] == 1u { workgroupBarrier(); }",
            "var n = 4u; store(&n, lane); if n > 3u { workgroupBarrier(); }",
            "if early(lane) == 1u { workgroupBarrier(); }",
            "if early(group.x) == 1u { if lane > 3u { return; } } workgroupBarrier();",
            "switch lane { case 0u: { workgroupBarrier(); } default: {} }",
            "loop { if lane > 5u { return; } break; } workgroupBarrier();",
            "var a: array<u32, 4>; a[lane % 4u] = 1u; if a[0] == 1u { workgroupBarrier(); }",
        ] {
            assert!(verdict(body).is_err(), "{body}");
        }
    }
}

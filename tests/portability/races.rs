//! A check that no driver makes: between a store of one invocation to workgroup memory and another one's load (or store) of the same
//! element stands a barrier, in both orders. CPU drivers run a workgroup's invocations in step and hide such races; GPUs do not.
//!
//! naga's IR of a kernel is interpreted for every invocation of a workgroup, with the parameters of a real dispatch. Integers are computed,
//! since they are what indices, loops and branches are made of; what buffers hold and floating-point numbers are unknown, and where a branch
//! depends on them, both sides are taken. Each access to workgroup memory is noted with the number of barriers before it: two accesses of
//! different invocations to one element with the same number, one of them a store, are a race. Cooperative matrices are loaded and stored by
//! their subgroup, which counts as one invocation.

use super::values::{Pointer, Root, Value, evaluate, follow, place_at, zero};
use naga::{
    AddressSpace, Binding, Block, BuiltIn, CooperativeData, Expression, Function, GlobalVariable, Handle, LocalVariable, Module,
    ScalarKind, Statement, Type, TypeInner,
};
use std::collections::HashMap;

/// What a workgroup did.
pub struct Run {
    /// Barriers that every invocation passed.
    pub barriers: usize,
    /// The first race, if there is one.
    pub race: Option<String>,
}

/// One dispatch of a kernel.
pub struct Dispatch<'a> {
    pub module: &'a Module,
    /// Bytes of the parameter struct.
    pub params: &'a [u8],
    pub workgroups: [u32; 3],
    /// Invocations of a subgroup.
    pub subgroup: u32,
}

/// Expressions that are evaluated before a dispatch counts as too long.
const MOST_STEPS: usize = 2_000_000;

/// Runs the first workgroup.
///
/// # Errors
/// What the interpreter cannot decide: an index, a loop or a barrier that depends on what a buffer holds; or that it takes too long.
pub fn run(dispatch: &Dispatch) -> Result<Run, String> {
    let module = dispatch.module;
    let entry = &module.entry_points[0];
    let size: u32 = entry.workgroup_size.iter().product();
    let mut notes = Notes::default();
    let mut barriers = None;
    for lane in 0..size {
        let mut invocation =
            Invocation { dispatch, lane, size, frames: Vec::new(), phase: 0, steps: &mut notes.steps, accesses: Vec::new() };
        let arguments = entry.function.arguments.iter().map(|argument| invocation.builtin(argument.binding.as_ref())).collect();
        invocation.call(&entry.function, arguments)?;
        let (phase, accesses) = (invocation.phase, invocation.accesses);
        if *barriers.get_or_insert(phase) != phase {
            return Err("invocations pass different numbers of barriers".into());
        }
        for access in accesses {
            notes.add(module, access);
        }
    }
    Ok(Run { barriers: barriers.unwrap_or(0), race: notes.race })
}

/// Barriers of the whole module, in the functions that `main` may call and in `main`.
pub fn barriers(module: &Module) -> usize {
    let mut count = 0;
    let mut module = module.clone();
    visit_barriers(&mut module, &mut |_| count += 1);
    count
}

/// The module without its barrier number `which`.
pub fn without_barrier(module: &Module, which: usize) -> Module {
    let (mut module, mut at) = (module.clone(), 0);
    visit_barriers(&mut module, &mut |statement| {
        if at == which {
            *statement = Statement::Block(Block::new());
        }
        at += 1;
    });
    module
}

fn visit_barriers(module: &mut Module, visit: &mut dyn FnMut(&mut Statement)) {
    fn walk(block: &mut Block, visit: &mut dyn FnMut(&mut Statement)) {
        for statement in block.iter_mut() {
            match statement {
                Statement::ControlBarrier(_) => visit(statement),
                Statement::Block(block) => walk(block, visit),
                Statement::If { accept, reject, .. } => [accept, reject].into_iter().for_each(|block| walk(block, visit)),
                Statement::Loop { body, continuing, .. } => [body, continuing].into_iter().for_each(|block| walk(block, visit)),
                Statement::Switch { cases, .. } => cases.iter_mut().for_each(|case| walk(&mut case.body, visit)),
                _ => {}
            }
        }
    }
    module.functions.iter_mut().for_each(|(_, function)| walk(&mut function.body, visit));
    walk(&mut module.entry_points[0].function.body, visit);
}

/// Who accesses: an invocation, or a subgroup together.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Who {
    Invocation(u32),
    Subgroup(u32),
}

#[derive(Clone, Copy, Debug)]
struct Access {
    phase: usize,
    variable: Handle<GlobalVariable>,
    element: usize,
    who: Who,
    stores: bool,
}

/// By phase and element: the first who stores, the first who loads, and whether others do too.
#[derive(Default)]
struct Notes {
    stores: HashMap<(usize, Handle<GlobalVariable>, usize), Who>,
    loads: HashMap<(usize, Handle<GlobalVariable>, usize), (Who, Option<Who>)>,
    race: Option<String>,
    steps: usize,
}

impl Notes {
    fn add(&mut self, module: &Module, access: Access) {
        let Access { phase, variable, element, who, stores } = access;
        let key = (phase, variable, element);
        let other_store = self.stores.get(&key).filter(|other| **other != who).map(|other| (*other, "stores"));
        let other_load = self.loads.get(&key).filter(|_| stores).and_then(|(first, second)| {
            [Some(*first), *second].into_iter().flatten().find(|other| *other != who).map(|other| (other, "loads"))
        });
        if let Some((other, does)) = other_store.or(other_load) {
            let name = module.global_variables[variable].name.as_deref().unwrap_or_default();
            let what = if stores { "stores" } else { "loads" };
            let text =
                format!("{who:?} {what} {name}[{element}], which {other:?} {does}, with no barrier between (after {phase})");
            self.race.get_or_insert(text);
        }
        if stores {
            self.stores.entry(key).or_insert(who);
        } else {
            let (first, second) = self.loads.entry(key).or_insert((who, None));
            if *first != who {
                second.get_or_insert(who);
            }
        }
    }
}

#[derive(Clone, Default)]
struct Frame {
    arguments: Vec<Value>,
    locals: HashMap<Handle<LocalVariable>, Value>,
    values: HashMap<Handle<Expression>, Value>,
}

/// How a block ends.
#[derive(Clone, PartialEq, Debug)]
enum Flow {
    Next,
    Break,
    Continue,
    Return(Value),
}

struct Invocation<'a> {
    dispatch: &'a Dispatch<'a>,
    lane: u32,
    size: u32,
    frames: Vec<Frame>,
    /// Barriers passed.
    phase: usize,
    steps: &'a mut usize,
    accesses: Vec<Access>,
}

impl<'a> Invocation<'a> {
    fn builtin(&self, binding: Option<&Binding>) -> Value {
        let three = |[x, y, z]: [u32; 3]| Value::Many([x, y, z].map(Value::U).to_vec());
        let [x, y, _] = self.dispatch.module.entry_points[0].workgroup_size;
        let place = [self.lane % x, self.lane / x % y, self.lane / (x * y)];
        let subgroup = self.dispatch.subgroup;
        match binding {
            Some(Binding::BuiltIn(builtin)) => match builtin {
                BuiltIn::WorkGroupId => three([0; 3]),
                BuiltIn::NumWorkGroups => three(self.dispatch.workgroups),
                BuiltIn::WorkGroupSize => three(self.dispatch.module.entry_points[0].workgroup_size),
                BuiltIn::LocalInvocationId | BuiltIn::GlobalInvocationId => three(place),
                BuiltIn::LocalInvocationIndex => Value::U(self.lane),
                BuiltIn::SubgroupId => Value::U(self.lane / subgroup),
                BuiltIn::NumSubgroups => Value::U(self.size / subgroup),
                BuiltIn::SubgroupSize => Value::U(subgroup),
                BuiltIn::SubgroupInvocationId => Value::U(self.lane % subgroup),
                _ => Value::Unknown,
            },
            _ => Value::Unknown,
        }
    }

    fn call(&mut self, function: &'a Function, arguments: Vec<Value>) -> Result<Value, String> {
        self.frames.push(Frame { arguments, ..Frame::default() });
        for (handle, local) in function.local_variables.iter() {
            let value = match local.init {
                Some(init) => self.value(function, init)?,
                None => self.zero(local.ty),
            };
            self.frame().locals.insert(handle, value);
        }
        let flow = self.block(function, &function.body)?;
        self.frames.pop();
        Ok(if let Flow::Return(value) = flow { value } else { Value::Unknown })
    }

    fn frame(&mut self) -> &mut Frame {
        self.frames.last_mut().expect("a function is being called")
    }

    fn block(&mut self, function: &'a Function, block: &'a Block) -> Result<Flow, String> {
        for statement in block.iter() {
            let flow = self.statement(function, statement)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, function: &'a Function, statement: &'a Statement) -> Result<Flow, String> {
        match statement {
            Statement::Emit(range) => {
                for handle in range.clone() {
                    *self.steps += 1;
                    let value = self.compute(function, handle)?;
                    self.frame().values.insert(handle, value);
                }
                if *self.steps > MOST_STEPS {
                    return Err("too long".into());
                }
            }
            Statement::Block(block) => return self.block(function, block),
            Statement::If { condition, accept, reject } => match self.value(function, *condition)? {
                Value::Bool(true) => return self.block(function, accept),
                Value::Bool(false) => return self.block(function, reject),
                _ => return self.either(function, accept, reject),
            },
            Statement::Switch { selector, cases } => {
                let selector = match self.value(function, *selector)? {
                    Value::U(value) => naga::SwitchValue::U32(value),
                    Value::I(value) => naga::SwitchValue::I32(value),
                    other => return Err(format!("a switch over {other:?}")),
                };
                let default = cases.iter().position(|case| case.value == naga::SwitchValue::Default);
                let chosen = cases.iter().position(|case| case.value == selector).or(default);
                for case in &cases[chosen.unwrap_or(cases.len())..] {
                    match self.block(function, &case.body)? {
                        Flow::Next if case.fall_through => {}
                        Flow::Next | Flow::Break => break,
                        other => return Ok(other),
                    }
                }
            }
            Statement::Loop { body, continuing, break_if } => loop {
                match self.block(function, body)? {
                    Flow::Break => break,
                    Flow::Return(value) => return Ok(Flow::Return(value)),
                    Flow::Next | Flow::Continue => {}
                }
                self.block(function, continuing)?;
                if let Some(condition) = break_if {
                    match self.value(function, *condition)? {
                        Value::Bool(true) => break,
                        Value::Bool(false) => {}
                        _ => return Err("a loop that ends by what a buffer holds".into()),
                    }
                }
            },
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
            Statement::Return { value } => {
                let value = value.map(|value| self.value(function, value)).transpose()?;
                return Ok(Flow::Return(value.unwrap_or(Value::Unknown)));
            }
            Statement::ControlBarrier(_) => self.phase += 1,
            Statement::MemoryBarrier(_) => {}
            Statement::Store { pointer, value } => {
                let value = self.value(function, *value)?;
                if let Value::Pointer(pointer) = self.value(function, *pointer)? {
                    self.store(&pointer, value)?;
                }
            }
            Statement::Call { function: callee, arguments, result } => {
                let arguments = arguments.iter().map(|&argument| self.value(function, argument)).collect::<Result<_, _>>()?;
                let value = self.call(&self.dispatch.module.functions[*callee], arguments)?;
                if let Some(result) = result {
                    self.frame().values.insert(*result, value);
                }
            }
            Statement::SubgroupCollectiveOperation { result, .. }
            | Statement::SubgroupGather { result, .. }
            | Statement::SubgroupBallot { result, .. } => {
                self.frame().values.insert(*result, Value::Unknown);
            }
            Statement::CooperativeStore { data, target } => {
                // A square, as many elements wide as its type says.
                let side = self.side(function, *target);
                self.cooperative(function, data, side, true)?;
            }
            other => return Err(format!("a statement that is not known here: {other:?}")),
        }
        Ok(Flow::Next)
    }

    /// Both sides of a branch that depends on what is unknown. What they leave different is unknown after it.
    fn either(&mut self, function: &'a Function, accept: &'a Block, reject: &'a Block) -> Result<Flow, String> {
        let (before, phase) = (self.frames.clone(), self.phase);
        let one = self.block(function, accept)?;
        let after_one = std::mem::replace(&mut self.frames, before);
        let phase_one = std::mem::replace(&mut self.phase, phase);
        let other = self.block(function, reject)?;
        if one != other || phase_one != phase || self.phase != phase {
            return Err("a barrier, a return or the end of a loop that depends on what a buffer holds".into());
        }
        for (frame, other) in self.frames.iter_mut().zip(after_one) {
            for (handle, value) in &mut frame.locals {
                if other.locals.get(handle) != Some(value) {
                    *value = Value::Unknown;
                }
            }
        }
        Ok(one)
    }

    /// The value of an expression that was computed before, or needs no computing.
    fn value(&mut self, function: &'a Function, handle: Handle<Expression>) -> Result<Value, String> {
        if let Some(value) = self.frame().values.get(&handle) {
            return Ok(value.clone());
        }
        self.compute(function, handle)
    }

    fn compute(&mut self, function: &'a Function, handle: Handle<Expression>) -> Result<Value, String> {
        Ok(match &function.expressions[handle] {
            Expression::FunctionArgument(index) => self.frame().arguments[*index as usize].clone(),
            Expression::GlobalVariable(global) => Value::Pointer(Pointer { root: Root::Global(*global), path: Vec::new() }),
            Expression::LocalVariable(local) => {
                Value::Pointer(Pointer { root: Root::Local(self.frames.len() - 1, *local), path: Vec::new() })
            }
            Expression::Load { pointer } => match self.value(function, *pointer)? {
                Value::Pointer(pointer) => self.load(&pointer)?,
                _ => Value::Unknown,
            },
            Expression::CooperativeLoad { columns, data, .. } => {
                self.cooperative(function, data, *columns as usize, false)?;
                Value::Unknown
            }
            _ => {
                let expressions = &function.expressions;
                evaluate(self.dispatch.module, expressions, handle, &mut |handle| self.value(function, handle))?
            }
        })
    }

    fn load(&mut self, pointer: &Pointer) -> Result<Value, String> {
        let module = self.dispatch.module;
        match pointer.root {
            Root::Local(frame, local) => Ok(follow(&self.frames[frame].locals[&local], &pointer.path)),
            Root::Global(global) => match module.global_variables[global].space {
                AddressSpace::WorkGroup => {
                    self.note(pointer, false)?;
                    Ok(Value::Unknown)
                }
                AddressSpace::Uniform => Ok(self.parameter(global, &pointer.path)),
                // The rows are one sequence, whose length decides how long attention's loops are.
                _ => Ok(match (module.global_variables[global].name.as_deref(), &pointer.path[..]) {
                    (Some("position"), [Some(row)]) => Value::U(*row as u32),
                    (Some("segment_start"), [_]) => Value::U(0),
                    _ => Value::Unknown,
                }),
            },
        }
    }

    fn store(&mut self, pointer: &Pointer, value: Value) -> Result<(), String> {
        match pointer.root {
            Root::Local(frame, local) => {
                let place = self.frames[frame].locals.entry(local).or_insert(Value::Unknown);
                place_at(place, &pointer.path, value);
                Ok(())
            }
            Root::Global(global) if self.dispatch.module.global_variables[global].space == AddressSpace::WorkGroup => {
                self.note(pointer, true)
            }
            Root::Global(_) => Ok(()),
        }
    }

    fn note(&mut self, pointer: &Pointer, stores: bool) -> Result<(), String> {
        let (Root::Global(variable), [Some(element), ..]) = (pointer.root, &pointer.path[..]) else {
            return Err("an index into workgroup memory that depends on what a buffer holds".into());
        };
        let who = Who::Invocation(self.lane);
        self.accesses.push(Access { phase: self.phase, variable, element: *element, who, stores });
        Ok(())
    }

    /// A square of elements, `stride` apart from line to line, that the subgroup loads or stores together.
    fn cooperative(&mut self, function: &'a Function, data: &CooperativeData, side: usize, stores: bool) -> Result<(), String> {
        let (pointer, stride) = (self.value(function, data.pointer)?, self.value(function, data.stride)?);
        let (Value::Pointer(Pointer { root: Root::Global(variable), path }), Value::U(stride)) = (pointer, stride) else {
            return Err("a cooperative matrix at a place that is not known".into());
        };
        if self.dispatch.module.global_variables[variable].space != AddressSpace::WorkGroup {
            return Ok(());
        }
        let [Some(first)] = path[..] else { return Err("a cooperative matrix at an index that is not known".into()) };
        let who = Who::Subgroup(self.lane / self.dispatch.subgroup);
        for line in 0..side {
            for at in 0..side {
                let element = first + line * stride as usize + at;
                self.accesses.push(Access { phase: self.phase, variable, element, who, stores });
            }
        }
        Ok(())
    }

    /// Elements a side of a cooperative matrix.
    fn side(&self, function: &Function, handle: Handle<Expression>) -> usize {
        match &function.expressions[handle] {
            Expression::CooperativeLoad { columns, .. } => *columns as usize,
            Expression::CooperativeMultiplyAdd { c, .. } => self.side(function, *c),
            Expression::Load { pointer } => self.side_of_place(function, *pointer),
            Expression::FunctionArgument(index) => self.side_of(function.arguments[*index as usize].ty),
            Expression::AccessIndex { base, index } => match &function.expressions[*base] {
                Expression::FunctionArgument(argument) => {
                    match &self.dispatch.module.types[function.arguments[*argument as usize].ty].inner {
                        TypeInner::Struct { members, .. } => self.side_of(members[*index as usize].ty),
                        _ => 16,
                    }
                }
                _ => 16,
            },
            _ => 16,
        }
    }

    fn side_of_place(&self, function: &Function, handle: Handle<Expression>) -> usize {
        match &function.expressions[handle] {
            Expression::LocalVariable(local) => self.side_of(function.local_variables[*local].ty),
            _ => 16,
        }
    }

    fn side_of(&self, ty: Handle<Type>) -> usize {
        match &self.dispatch.module.types[ty].inner {
            TypeInner::CooperativeMatrix { columns, .. } => *columns as usize,
            _ => 16,
        }
    }

    /// A field of the parameter struct: known, where it is an integer.
    fn parameter(&self, global: Handle<GlobalVariable>, path: &[Option<usize>]) -> Value {
        let module = self.dispatch.module;
        let TypeInner::Struct { members, .. } = &module.types[module.global_variables[global].ty].inner else {
            return Value::Unknown;
        };
        let field = |member: &naga::StructMember| {
            let bytes = self.dispatch.params.get(member.offset as usize..member.offset as usize + 4);
            match (&module.types[member.ty].inner, bytes) {
                (TypeInner::Scalar(scalar), Some(bytes)) if scalar.kind == ScalarKind::Uint => {
                    Value::U(u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
                }
                _ => Value::Unknown,
            }
        };
        follow(&Value::Many(members.iter().map(field).collect()), path)
    }

    fn zero(&self, ty: Handle<Type>) -> Value {
        zero(self.dispatch.module, ty)
    }
}

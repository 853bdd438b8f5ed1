//! Why every loop ends. wgpu would count the rounds of each loop and stop it after 2^64, which doubles the instructions of short loops; kernels
//! are compiled without that counter, so it has to be known of each loop that it ends.
//!
//! Nearly all count: `for (var i = a; i < b; i += c)`, where nothing in the loop changes `b`, nothing but the last part changes `i`, and `c` is
//! a constant above 0 (or `i > b; i /= 2`). Numbers are sizes, far below 2^32, so `i` does not wrap. The others are listed, with the reason.

use naga::{BinaryOperator, Block, Expression, Function, Handle, Literal, LocalVariable, Module, Statement};
use std::collections::BTreeSet;

/// Of `sorted_search` and searches like it.
const HALVES: &str = "each round halves what lies between `low` and `high`";

/// Loops that do not count by a constant: the shader, how many, why they end.
pub const OTHERS: &[(&str, usize, &str)] = &[
    ("add_expert_bias", 1, HALVES),
    ("scatter_rows", 1, HALVES),
    ("token_rows", 1, HALVES),
    ("replace_columns", 1, HALVES),
    ("global_norm", 1, "the step is 64 for each workgroup, of which there is at least one"),
    ("attention", 2, "a block ends after its first key; `segment_row` grows up to the last row"),
    (
        "attention_subgroup8",
        2,
        "a block ends after its first key; a row whose segment begins after the block comes at `last_row` at the latest, as `base < last_segment`",
    ),
];

/// Loops of the module that do not count by a constant, told as well as can be.
pub fn not_counting(module: &Module) -> Vec<String> {
    let mut found = Vec::new();
    let functions = module.functions.iter().map(|(_, function)| function);
    for function in functions.chain(module.entry_points.iter().map(|entry| &entry.function)) {
        in_block(module, function, &function.body, &mut found);
    }
    found
}

fn in_block(module: &Module, function: &Function, block: &Block, found: &mut Vec<String>) {
    for statement in block {
        if let Statement::Loop { body, continuing, break_if } = statement
            && (break_if.is_some() || !counts(module, function, body, continuing))
        {
            found.push(format!("a loop in {}", function.name.as_deref().unwrap_or("main")));
        }
        inner_blocks(statement).into_iter().for_each(|block| in_block(module, function, block, found));
    }
}

fn inner_blocks(statement: &Statement) -> Vec<&Block> {
    match statement {
        Statement::Block(block) => vec![block],
        Statement::If { accept, reject, .. } => vec![accept, reject],
        Statement::Switch { cases, .. } => cases.iter().map(|case| &case.body).collect(),
        Statement::Loop { body, continuing, .. } => vec![body, continuing],
        _ => vec![],
    }
}

fn counts(module: &Module, function: &Function, body: &Block, continuing: &Block) -> bool {
    // The condition comes first: where it does not hold, the loop is left.
    let condition = body.iter().find_map(|statement| match statement {
        Statement::If { condition, accept, reject } if accept.is_empty() && matches!(reject.last(), Some(Statement::Break)) => {
            Some(*condition)
        }
        _ => None,
    });
    let mut needed = Vec::new();
    condition.into_iter().for_each(|condition| all_needed(function, body, condition, &mut needed));
    needed.into_iter().any(|condition| counts_by(module, function, body, continuing, condition))
}

/// The parts of a condition that must all hold for it to hold: naga writes `a && b` as `if a { both = b; } else { both = false; }`.
fn all_needed(function: &Function, body: &Block, condition: Handle<Expression>, needed: &mut Vec<Handle<Expression>>) {
    match function.expressions[condition] {
        Expression::Binary { op: BinaryOperator::LogicalAnd, left, right } => {
            [left, right].into_iter().for_each(|part| all_needed(function, body, part, needed));
        }
        Expression::Load { .. } => {
            let both = loaded(function, condition);
            for statement in body {
                let Statement::If { condition, accept, reject } = statement else { continue };
                let (mut then, mut otherwise) = (Vec::new(), Vec::new());
                stores(function, accept, &mut then);
                stores(function, reject, &mut otherwise);
                if let ([(one, part)], [(other, none)]) = (&then[..], &otherwise[..])
                    && (Some(*one), Some(*other)) == (both, both)
                    && matches!(function.expressions[*none], Expression::Literal(Literal::Bool(false)))
                {
                    [*condition, *part].into_iter().for_each(|part| all_needed(function, body, part, needed));
                }
            }
        }
        _ => needed.push(condition),
    }
}

/// Does the loop end because of this condition?
fn counts_by(module: &Module, function: &Function, body: &Block, continuing: &Block, condition: Handle<Expression>) -> bool {
    let at = |handle: Handle<Expression>| &function.expressions[handle];
    let Expression::Binary { op, left, right } = *at(condition) else { return false };
    let ahead = match *at(left) {
        // `i + 4 <= n`
        Expression::Binary { op: BinaryOperator::Add, left, right } if is_positive(module, function, right) => {
            loaded(function, left)
        }
        _ => loaded(function, left),
    };
    let Some(counter) = ahead else { return false };
    let up = matches!(op, BinaryOperator::Less | BinaryOperator::LessEqual);
    if !up && op != BinaryOperator::Greater {
        return false;
    }
    let (mut in_body, mut at_end) = (Vec::new(), Vec::new());
    stores(function, body, &mut in_body);
    stores(function, continuing, &mut at_end);
    let changed: BTreeSet<_> = in_body.iter().chain(&at_end).map(|(local, _)| *local).collect();
    let mut bound = BTreeSet::new();
    loads(function, right, &mut bound);
    let steps: Vec<_> = at_end.iter().filter(|(local, _)| *local == counter).collect();
    let [(_, step)] = steps[..] else { return false };
    let is_step = match *at(*step) {
        Expression::Binary { op: BinaryOperator::Add, left, right } => {
            up && loaded(function, left) == Some(counter) && is_positive(module, function, right)
        }
        Expression::Binary { op: BinaryOperator::Divide, left, .. } => !up && loaded(function, left) == Some(counter),
        _ => false,
    };
    is_step && bound.is_disjoint(&changed) && in_body.iter().all(|(local, _)| *local != counter)
}

/// The local variable that an expression loads.
fn loaded(function: &Function, handle: Handle<Expression>) -> Option<Handle<LocalVariable>> {
    let Expression::Load { pointer } = function.expressions[handle] else { return None };
    match function.expressions[pointer] {
        Expression::LocalVariable(local) => Some(local),
        _ => None,
    }
}

/// Every local variable that is stored to, in whole or in part, and what.
fn stores(function: &Function, block: &Block, found: &mut Vec<(Handle<LocalVariable>, Handle<Expression>)>) {
    for statement in block {
        if let Statement::Store { pointer, value } = *statement
            && let Some(local) = root(function, pointer)
        {
            found.push((local, value));
        }
        inner_blocks(statement).into_iter().for_each(|block| stores(function, block, found));
    }
}

fn root(function: &Function, pointer: Handle<Expression>) -> Option<Handle<LocalVariable>> {
    match function.expressions[pointer] {
        Expression::LocalVariable(local) => Some(local),
        Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => root(function, base),
        _ => None,
    }
}

/// Local variables that an expression depends on.
fn loads(function: &Function, handle: Handle<Expression>, found: &mut BTreeSet<Handle<LocalVariable>>) {
    use Expression as E;
    let mut inner = |handles: &[Handle<Expression>]| handles.iter().for_each(|&handle| loads(function, handle, found));
    match &function.expressions[handle] {
        E::Load { pointer } => match root(function, *pointer) {
            Some(local) => drop(found.insert(local)),
            None => inner(&[*pointer]),
        },
        E::Access { base, index } => inner(&[*base, *index]),
        E::AccessIndex { base: value, .. }
        | E::Unary { expr: value, .. }
        | E::As { expr: value, .. }
        | E::Splat { value, .. } => {
            inner(&[*value]);
        }
        E::Binary { left, right, .. } => inner(&[*left, *right]),
        E::Select { condition, accept, reject } => inner(&[*condition, *accept, *reject]),
        E::Compose { components, .. } => inner(components),
        E::Math { arg, arg1, arg2, arg3, .. } => {
            inner(&[Some(*arg), *arg1, *arg2, *arg3].into_iter().flatten().collect::<Vec<_>>());
        }
        _ => {}
    }
}

/// A number above 0 that is known when the kernel is compiled: a literal, or made of constants (all of which are sizes) by addition,
/// multiplication and the smaller or larger of two.
fn is_positive(module: &Module, function: &Function, handle: Handle<Expression>) -> bool {
    let of = |handle| is_positive(module, function, handle);
    match &function.expressions[handle] {
        Expression::Literal(Literal::U32(value)) => *value > 0,
        Expression::Literal(Literal::I32(value)) => *value > 0,
        Expression::Constant(constant) => {
            matches!(module.global_expressions[module.constants[*constant].init], Expression::Literal(Literal::U32(1..)))
        }
        Expression::Override(_) => true,
        Expression::Binary { op: BinaryOperator::Add | BinaryOperator::Multiply, left, right } => of(*left) && of(*right),
        Expression::Math { fun: naga::MathFunction::Min | naga::MathFunction::Max, arg, arg1: Some(other), .. } => {
            of(*arg) && of(*other)
        }
        _ => false,
    }
}

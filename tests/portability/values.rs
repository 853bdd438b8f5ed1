//! What the interpreter of `races` computes with: integers and booleans are known, all else is not; and what an expression is, made of the
//! values of others.

use naga::{
    Arena, BinaryOperator as Op, Expression, GlobalVariable, Handle, Literal, LocalVariable, MathFunction, Module,
    RelationalFunction, ScalarKind, Type, TypeInner, UnaryOperator,
};

#[derive(Clone, PartialEq, Debug)]
pub enum Value {
    U(u32),
    I(i32),
    Bool(bool),
    /// Components of a vector, columns of a matrix, members of a struct, elements of an array.
    Many(Vec<Value>),
    Pointer(Pointer),
    Unknown,
}

#[derive(Clone, PartialEq, Debug)]
pub struct Pointer {
    pub root: Root,
    /// Indices from the root on; `None` where unknown.
    pub path: Vec<Option<usize>>,
}

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Root {
    Local(usize, Handle<LocalVariable>),
    Global(Handle<GlobalVariable>),
}

pub fn follow(value: &Value, path: &[Option<usize>]) -> Value {
    match (value, path) {
        (value, []) => value.clone(),
        (Value::Many(parts), [Some(index), rest @ ..]) => parts.get(*index).map_or(Value::Unknown, |part| follow(part, rest)),
        _ => Value::Unknown,
    }
}

pub fn place_at(place: &mut Value, path: &[Option<usize>], value: Value) {
    match (place, path) {
        (place, []) => *place = value,
        (Value::Many(parts), [Some(index), rest @ ..]) => {
            if let Some(part) = parts.get_mut(*index) {
                place_at(part, rest, value);
            }
        }
        (place, _) => *place = Value::Unknown,
    }
}

pub fn zero(module: &Module, ty: Handle<Type>) -> Value {
    match &module.types[ty].inner {
        TypeInner::Scalar(scalar) => zero_scalar(scalar.kind),
        TypeInner::Vector { size, scalar } => Value::Many(vec![zero_scalar(scalar.kind); *size as usize]),
        TypeInner::Struct { members, .. } => Value::Many(members.iter().map(|member| zero(module, member.ty)).collect()),
        _ => Value::Unknown,
    }
}

fn zero_scalar(kind: ScalarKind) -> Value {
    match kind {
        ScalarKind::Uint => Value::U(0),
        ScalarKind::Sint => Value::I(0),
        ScalarKind::Bool => Value::Bool(false),
        _ => Value::Unknown,
    }
}

/// What an expression is, made of the values of others.
pub fn evaluate(
    module: &Module,
    expressions: &Arena<Expression>,
    handle: Handle<Expression>,
    value: &mut dyn FnMut(Handle<Expression>) -> Result<Value, String>,
) -> Result<Value, String> {
    Ok(match &expressions[handle] {
        Expression::Literal(Literal::U32(x)) => Value::U(*x),
        Expression::Literal(Literal::I32(x)) => Value::I(*x),
        Expression::Literal(Literal::Bool(x)) => Value::Bool(*x),
        Expression::Literal(_) => Value::Unknown,
        Expression::Constant(constant) => {
            let global = &module.global_expressions;
            fn constant_value(module: &Module, arena: &Arena<Expression>, handle: Handle<Expression>) -> Result<Value, String> {
                evaluate(module, arena, handle, &mut |inner| constant_value(module, arena, inner))
            }
            constant_value(module, global, module.constants[*constant].init)?
        }
        Expression::ZeroValue(ty) => zero(module, *ty),
        Expression::Compose { ty, components } => {
            let parts = components.iter().map(|&part| value(part)).collect::<Result<Vec<_>, _>>()?;
            match &module.types[*ty].inner {
                TypeInner::Vector { size, .. } => {
                    let flat: Vec<Value> = parts
                        .into_iter()
                        .flat_map(|part| if let Value::Many(inner) = part { inner } else { vec![part] })
                        .collect();
                    // An unknown vector among the parts leaves their number unknown.
                    if flat.len() == *size as usize { Value::Many(flat) } else { Value::Unknown }
                }
                _ => Value::Many(parts),
            }
        }
        Expression::Access { base, index } => {
            let index = match value(*index)? {
                Value::U(index) => Some(index as usize),
                Value::I(index) => usize::try_from(index).ok(),
                _ => None,
            };
            accessed(value(*base)?, index)
        }
        Expression::AccessIndex { base, index } => accessed(value(*base)?, Some(*index as usize)),
        Expression::Splat { size, value: part } => Value::Many(vec![value(*part)?; *size as usize]),
        Expression::Swizzle { size, vector, pattern } => match value(*vector)? {
            Value::Many(parts) => {
                Value::Many(pattern[..*size as usize].iter().map(|component| parts[*component as usize].clone()).collect())
            }
            _ => Value::Unknown,
        },
        Expression::Unary { op, expr } => each(value(*expr)?, &|x| match (op, x) {
            (UnaryOperator::LogicalNot, Value::Bool(x)) => Value::Bool(!x),
            (UnaryOperator::BitwiseNot, Value::U(x)) => Value::U(!x),
            (UnaryOperator::Negate, Value::I(x)) => Value::I(x.wrapping_neg()),
            _ => Value::Unknown,
        }),
        Expression::Binary { op, left, right } => {
            let (left, right) = (value(*left)?, value(*right)?);
            pairwise(&left, &right, &|a, b| binary(*op, a, b))
        }
        Expression::Select { condition, accept, reject } => {
            let (accept, reject) = (value(*accept)?, value(*reject)?);
            match value(*condition)? {
                Value::Bool(true) => accept,
                Value::Bool(false) => reject,
                Value::Many(conditions) => match (accept, reject) {
                    (Value::Many(accept), Value::Many(reject)) => Value::Many(
                        conditions
                            .iter()
                            .zip(accept.into_iter().zip(reject))
                            .map(|(condition, (accept, reject))| match condition {
                                Value::Bool(true) => accept,
                                Value::Bool(false) => reject,
                                _ => Value::Unknown,
                            })
                            .collect(),
                    ),
                    _ => Value::Unknown,
                },
                _ => Value::Unknown,
            }
        }
        Expression::Relational { fun, argument } => match value(*argument)? {
            Value::Many(parts) => {
                let known: Option<Vec<bool>> =
                    parts.iter().map(|part| if let Value::Bool(part) = part { Some(*part) } else { None }).collect();
                match (fun, known) {
                    (RelationalFunction::All, Some(parts)) => Value::Bool(parts.iter().all(|part| *part)),
                    (RelationalFunction::Any, Some(parts)) => Value::Bool(parts.iter().any(|part| *part)),
                    _ => Value::Unknown,
                }
            }
            _ => Value::Unknown,
        },
        Expression::Math { fun, arg, arg1, arg2, .. } => {
            let first = value(*arg)?;
            let second = arg1.map(&mut *value).transpose()?;
            let third = arg2.map(&mut *value).transpose()?;
            match (fun, second, third) {
                (MathFunction::Min, Some(second), _) => pairwise(&first, &second, &least),
                (MathFunction::Max, Some(second), _) => pairwise(&first, &second, &most),
                (MathFunction::Clamp, Some(low), Some(high)) => pairwise(&pairwise(&first, &low, &most), &high, &least),
                _ => Value::Unknown,
            }
        }
        Expression::As { expr, kind, convert } => each(value(*expr)?, &|x| match (x, kind, convert) {
            (Value::U(x), ScalarKind::Uint, _) => Value::U(*x),
            (Value::U(x), ScalarKind::Sint, _) => Value::I(*x as i32),
            (Value::I(x), ScalarKind::Uint, _) => Value::U(*x as u32),
            (Value::I(x), ScalarKind::Sint, _) => Value::I(*x),
            (Value::Bool(x), ScalarKind::Uint, Some(_)) => Value::U(u32::from(*x)),
            (Value::U(x), ScalarKind::Bool, Some(_)) => Value::Bool(*x != 0),
            _ => Value::Unknown,
        }),
        _ => Value::Unknown,
    })
}

fn accessed(base: Value, index: Option<usize>) -> Value {
    match base {
        Value::Pointer(mut pointer) => {
            pointer.path.push(index);
            Value::Pointer(pointer)
        }
        other => follow(&other, &[index]),
    }
}

fn each(value: Value, f: &dyn Fn(&Value) -> Value) -> Value {
    match value {
        Value::Many(parts) => Value::Many(parts.iter().map(f).collect()),
        other => f(&other),
    }
}

fn pairwise(left: &Value, right: &Value, f: &dyn Fn(&Value, &Value) -> Value) -> Value {
    match (left, right) {
        (Value::Many(left), Value::Many(right)) => Value::Many(left.iter().zip(right).map(|(a, b)| f(a, b)).collect()),
        (Value::Many(left), right) => Value::Many(left.iter().map(|a| f(a, right)).collect()),
        (left, Value::Many(right)) => Value::Many(right.iter().map(|b| f(left, b)).collect()),
        (left, right) => f(left, right),
    }
}

fn least(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::U(a), Value::U(b)) => Value::U(*a.min(b)),
        (Value::I(a), Value::I(b)) => Value::I(*a.min(b)),
        _ => Value::Unknown,
    }
}

fn most(a: &Value, b: &Value) -> Value {
    match (a, b) {
        (Value::U(a), Value::U(b)) => Value::U(*a.max(b)),
        (Value::I(a), Value::I(b)) => Value::I(*a.max(b)),
        _ => Value::Unknown,
    }
}

fn binary(op: Op, left: &Value, right: &Value) -> Value {
    match (left, right) {
        (&Value::U(a), &Value::U(b)) => match op {
            Op::Add => Value::U(a.wrapping_add(b)),
            Op::Subtract => Value::U(a.wrapping_sub(b)),
            Op::Multiply => Value::U(a.wrapping_mul(b)),
            Op::Divide => Value::U(a.checked_div(b).unwrap_or(a)),
            Op::Modulo => Value::U(a.checked_rem(b).unwrap_or(0)),
            Op::And => Value::U(a & b),
            Op::InclusiveOr => Value::U(a | b),
            Op::ExclusiveOr => Value::U(a ^ b),
            Op::ShiftLeft => Value::U(a.wrapping_shl(b)),
            Op::ShiftRight => Value::U(a.wrapping_shr(b)),
            _ => compared(op, &a, &b),
        },
        (&Value::I(a), &Value::I(b)) => match op {
            Op::Add => Value::I(a.wrapping_add(b)),
            Op::Subtract => Value::I(a.wrapping_sub(b)),
            Op::Multiply => Value::I(a.wrapping_mul(b)),
            Op::Divide => Value::I(a.checked_div(b).unwrap_or(a)),
            Op::Modulo => Value::I(a.checked_rem(b).unwrap_or(0)),
            _ => compared(op, &a, &b),
        },
        (&Value::Bool(a), &Value::Bool(b)) => match op {
            Op::LogicalAnd | Op::And => Value::Bool(a && b),
            Op::LogicalOr | Op::InclusiveOr => Value::Bool(a || b),
            Op::ExclusiveOr => Value::Bool(a != b),
            _ => compared(op, &a, &b),
        },
        // One side is enough.
        (&Value::Bool(false), _) | (_, &Value::Bool(false)) if matches!(op, Op::LogicalAnd | Op::And) => Value::Bool(false),
        (&Value::Bool(true), _) | (_, &Value::Bool(true)) if matches!(op, Op::LogicalOr | Op::InclusiveOr) => Value::Bool(true),
        _ => Value::Unknown,
    }
}

fn compared<T: PartialOrd>(op: Op, a: &T, b: &T) -> Value {
    match op {
        Op::Equal => Value::Bool(a == b),
        Op::NotEqual => Value::Bool(a != b),
        Op::Less => Value::Bool(a < b),
        Op::LessEqual => Value::Bool(a <= b),
        Op::Greater => Value::Bool(a > b),
        Op::GreaterEqual => Value::Bool(a >= b),
        _ => Value::Unknown,
    }
}

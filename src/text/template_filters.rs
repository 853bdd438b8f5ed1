//! Jinja's filters and tests where minijinja has none, or one that answers otherwise than Jinja2 does.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::python_containers::Container;
use super::python_values::{self, Json};
use super::{python_containers, string_methods, template_meaning};

/// Puts all of them into `environment`.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.add_filter("tojson", tojson);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_filter("string", |value: &Value| python_values::str(value));
    environment.add_filter("title", title);
    environment.add_filter("capitalize", |value: &Value| {
        Ok::<_, Error>(string_methods::cased(&python_values::str(value)?, "capitalize"))
    });
    environment.add_filter("trim", trim);
    environment.add_filter("replace", replace);
    environment.add_filter("center", center);
    environment.add_filter("join", join);
    environment.add_filter("sum", sum);
    environment.add_filter("int", int);
    environment.add_filter("float", float);
    environment.add_filter("round", round);
    environment.add_filter("escape", escape);
    environment.add_filter("e", escape);
    environment.add_filter("wordcount", |value: &Value| Ok::<_, Error>(python_values::str(value)?.split_whitespace().count()));
    environment.add_filter("attr", attr);
    environment.add_filter(super::template_rewrite::PERCENT, |format: &Value, value: &Value| percent(format, value, false));
    environment.add_filter(super::template_rewrite::PERCENT_TUPLE, |format: &Value, value: &Value| percent(format, value, true));
    environment.add_filter(super::template_rewrite::STR, |value: &Value| python_values::str(value));
    environment.add_filter("items", |map: &Value| match map.is_undefined() {
        true => Ok(Vec::new()),
        false => python_containers::pairs(map),
    });
    environment.add_filter("dictsort", dictsort);
    environment.add_filter(template_meaning::SAME, |value: Value| value);
    environment.add_filter(template_meaning::ITEMS, iterated);
    environment.add_filter(template_meaning::ORDERED, ordered);
    environment.add_filter(template_meaning::ALIKE, |left: Value, right: &Value| match alike(&left, right) {
        true => left,
        false => Value::UNDEFINED,
    });
    environment.add_function(template_meaning::CUT, |whole: &Value, slice: Value| match is_tuple(whole) {
        true => Ok::<_, Error>(python_containers::tuple(slice.try_iter()?.collect())),
        false => Ok(slice),
    });
    environment.add_function(template_meaning::TUPLE, |items: Value| {
        Ok::<_, Error>(python_containers::tuple(items.try_iter()?.collect()))
    });
    // What these write is not Jinja2's text.
    environment.remove_filter("pprint");

    environment.add_test("sequence", is_sequence);
    environment.add_test("iterable", is_iterable);
    environment.add_test("number", |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool));
    environment.add_test("callable", |value: &Value| value.kind() == ValueKind::Plain);
    for unknown in ["startingwith", "endingwith", "safe", "int"] {
        environment.remove_test(unknown);
    }
}

fn failed(problem: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`, without escaping for HTML.
fn tojson(value: &Value, options: &[Value]) -> Result<Value, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(options)?;
    // The order in which transformers' filter takes them.
    let option = |at: usize, name: &str| -> Result<Option<Value>, Error> {
        let value: Option<Value> = named.get(name)?;
        Ok(given.get(at).cloned().or(value).filter(|value| !value.is_none()))
    };
    let indent = option(1, "indent")?.map(|width| usize::try_from(width).map(|width| width.min(64))).transpose()?;
    let separators = match option(2, "separators")? {
        None => (if indent.is_some() { "," } else { ", " }.to_string(), ": ".to_string()),
        Some(pair) => (python_values::str(&pair.get_item_by_index(0)?)?, python_values::str(&pair.get_item_by_index(1)?)?),
    };
    let is = |value: Option<Value>| value.is_some_and(|value| value.is_true());
    let json = Json { indent, ascii: is(option(0, "ensure_ascii")?), sorted: is(option(3, "sort_keys")?), separators };
    named.assert_all_used()?;
    json.dumps(value).map(Value::from)
}

fn length(value: &Value) -> Result<usize, Error> {
    match value.kind() {
        ValueKind::Undefined => Ok(0),
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().count()),
        _ => match value.len() {
            Some(length) => Ok(length),
            None if matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable) => Ok(value.try_iter()?.count()),
            None => Err(failed(format!("a value of type {} has no length", value.kind()))),
        },
    }
}

/// Unlike the method of this name, the filter begins words only after white space, `-` and opening brackets.
fn title(value: &Value) -> Result<String, Error> {
    let text = python_values::str(value)?;
    let mut out = String::with_capacity(text.len());
    let mut first = true;
    for character in text.chars() {
        let parts = character == '-' || character.is_whitespace() || "({[<".contains(character);
        match first && !parts {
            true => out.extend(character.to_uppercase()),
            false => out.extend(character.to_lowercase()),
        }
        first = parts;
    }
    Ok(out)
}

fn trim(value: &Value, characters: Option<Value>) -> Result<String, Error> {
    let text = python_values::str(value)?;
    Ok(string_methods::stripped(&text, "trim", &characters.unwrap_or_default())?.to_string())
}

fn replace(value: &Value, old: &Value, new: &Value, count: Option<i64>) -> Result<String, Error> {
    let (text, old, new) = (python_values::str(value)?, python_values::str(old)?, python_values::str(new)?);
    Ok(match count.and_then(|count| usize::try_from(count).ok()) {
        Some(count) => text.replacen(&old, &new, count),
        None => text.replace(&old, &new),
    })
}

fn center(value: &Value, width: Option<usize>) -> Result<String, Error> {
    string_methods::padded(&python_values::str(value)?, "center", width.unwrap_or(80), None)
}

/// An item, or what its attribute of this name holds.
fn part(item: Value, attribute: Option<&str>) -> Result<Value, Error> {
    attribute.map_or(Ok(item.clone()), |path| {
        path.split('.').try_fold(item, |item, name| match name.parse::<usize>() {
            Ok(index) => item.get_item_by_index(index),
            Err(_) => item.get_attr(name),
        })
    })
}

fn items(value: &Value) -> Result<Vec<Value>, Error> {
    if value.is_undefined() { Ok(Vec::new()) } else { Ok(value.try_iter()?.collect()) }
}

fn join(value: &Value, options: &[Value]) -> Result<String, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(options)?;
    let (by, attribute): (Option<Value>, Option<Value>) = (named.get("d")?, named.get("attribute")?);
    named.assert_all_used()?;
    let by = given.first().cloned().or(by).map_or(Ok(String::new()), |by| python_values::str(&by))?;
    let attribute = given.get(1).cloned().or(attribute).filter(|name| !name.is_none());
    let attribute = attribute.map(|name| python_values::str(&name)).transpose()?;
    let mut out = String::new();
    for (index, item) in items(value)?.into_iter().enumerate() {
        out.push_str(if index > 0 { &by } else { "" });
        out.push_str(&python_values::str(&part(item, attribute.as_deref())?)?);
    }
    Ok(out)
}

fn sum(value: &Value, options: &[Value]) -> Result<Value, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(options)?;
    let (attribute, start): (Option<Value>, Option<Value>) = (named.get("attribute")?, named.get("start")?);
    named.assert_all_used()?;
    let attribute = given.first().cloned().or(attribute).filter(|name| !name.is_none());
    let attribute = attribute.map(|name| python_values::str(&name)).transpose()?;
    let start = given.get(1).cloned().or(start).unwrap_or(Value::from(0));
    let (mut whole, mut real, mut list) = (0_i64, None, None);
    match start.kind() {
        ValueKind::Number if start.is_integer() => whole = i64::try_from(start)?,
        ValueKind::Number => real = Some(f64::try_from(start)?),
        ValueKind::Seq => list = Some(items(&start)?),
        other => return Err(failed(format!("sum: cannot begin with a value of type {other}"))),
    }
    for item in items(value)? {
        let item = part(item, attribute.as_deref())?;
        match &mut list {
            Some(list) if item.kind() == ValueKind::Seq => list.extend(items(&item)?),
            None if real.is_none() && item.is_integer() => {
                whole = whole.checked_add(i64::try_from(item)?).ok_or_else(|| failed("sum: the number is too large"))?;
            }
            None if item.kind() == ValueKind::Number => real = Some(real.unwrap_or(whole as f64) + f64::try_from(item)?),
            _ => return Err(failed(format!("sum: cannot add a value of type {}", item.kind()))),
        }
    }
    Ok(match (list, real) {
        (Some(list), _) => Value::from(list),
        (None, Some(real)) => Value::from(real),
        (None, None) => Value::from(whole),
    })
}

fn int(value: &Value, default: Option<Value>) -> Value {
    let number = match value.kind() {
        ValueKind::Bool => Some(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => return value.clone(),
        ValueKind::Number => f64::try_from(value.clone()).ok().map(|number| number as i64),
        ValueKind::String => {
            let text = value.as_str().unwrap_or_default().trim();
            text.parse().ok().or_else(|| text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number as i64))
        }
        _ => None,
    };
    number.map(Value::from).unwrap_or_else(|| default.unwrap_or(Value::from(0)))
}

fn float(value: &Value, default: Option<Value>) -> Value {
    let number = match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        ValueKind::String => value.as_str().unwrap_or_default().trim().parse().ok(),
        _ => None,
    };
    number.map(Value::from).unwrap_or_else(|| default.unwrap_or(Value::from(0.0)))
}

/// Halves go to the even number, as in Python.
fn round(value: &Value, options: &[Value]) -> Result<Value, Error> {
    let (given, named): (&[Value], Kwargs) = from_args(options)?;
    let (precision, method): (Option<i32>, Option<Value>) = (named.get("precision")?, named.get("method")?);
    named.assert_all_used()?;
    let precision = given.first().map(|precision| i32::try_from(precision.clone())).transpose()?.or(precision).unwrap_or(0);
    let number = f64::try_from(value.clone())?;
    let method = given.get(1).cloned().or(method).map_or(Ok("common".to_string()), |method| python_values::str(&method))?;
    let scale = 10_f64.powi(precision.clamp(-300, 300));
    Ok(Value::from(match method.as_str() {
        // Formatting rounds the exact value, which a scaled one is not.
        "common" if precision > 0 => format!("{number:.*}", precision.min(300) as usize).parse().unwrap_or(number),
        "common" => (number * scale).round_ties_even() / scale,
        "ceil" => (number * scale).ceil() / scale,
        "floor" => (number * scale).floor() / scale,
        other => return Err(failed(format!("round: the method `{other}` is not known"))),
    }))
}

fn escape(value: &Value) -> Result<String, Error> {
    let mut out = String::new();
    for character in python_values::str(value)?.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            plain => out.push(plain),
        }
    }
    Ok(out)
}

/// Attributes alone: the items of a dictionary are none.
fn attr(value: &Value, name: &Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::Map => Ok(Value::UNDEFINED),
        _ => value.get_attr(name.as_str().unwrap_or_default()),
    }
}

fn dictsort(map: &Value, options: Kwargs) -> Result<Value, Error> {
    let sorted = minijinja::filters::dictsort(map, options)?;
    sorted.try_iter()?.map(|pair| Ok(python_containers::tuple(pair.try_iter()?.collect()))).collect()
}

/// What a loop goes over: of a text its characters.
fn iterated(value: Value) -> Result<Value, Error> {
    match value.kind() {
        ValueKind::String => Ok(value.as_str().unwrap_or_default().chars().map(Value::from).collect()),
        ValueKind::Undefined => Ok(Value::from(Vec::<Value>::new())),
        ValueKind::Iterable if value.len().is_none() => Ok(value.try_iter()?.collect()),
        ValueKind::Seq | ValueKind::Iterable | ValueKind::Map => Ok(value),
        other => Err(failed(format!("a value of type {other} cannot be iterated over"))),
    }
}

/// `left`, if it has an order with `right`.
fn ordered(left: Value, right: &Value) -> Result<Value, Error> {
    use ValueKind::{Bool, Iterable, Number, Seq, String};
    match (left.kind(), right.kind()) {
        (Bool | Number, Bool | Number) | (String, String) => Ok(left),
        (Seq | Iterable, Seq | Iterable) if is_tuple(&left) == is_tuple(right) => Ok(left),
        (one, other) => Err(failed(format!("values of type {one} and {other} have no order"))),
    }
}

fn is_tuple(value: &Value) -> bool {
    matches!(value.downcast_object_ref(), Some(Container::Tuple(_)))
}

/// Whether no tuple stands on one side where another sequence stands on the other. Then `==` compares as Python does.
fn alike(left: &Value, right: &Value) -> bool {
    use ValueKind::{Map, Seq};
    let (Ok(ones), Ok(others)) = (left.try_iter(), right.try_iter()) else { return true };
    match (left.kind(), right.kind()) {
        (Seq, Seq) => is_tuple(left) == is_tuple(right) && ones.zip(others).all(|(one, other)| alike(&one, &other)),
        (Map, Map) => ones.into_iter().all(|key| match (left.get_item(&key), right.get_item(&key)) {
            (Ok(one), Ok(other)) => alike(&one, &other),
            _ => true,
        }),
        _ => true,
    }
}

fn percent(format: &Value, value: &Value, tuple: bool) -> Result<String, Error> {
    string_methods::percent(format.as_str().unwrap_or_default(), value, tuple)
}

/// What has a length and items by position or key. Undefined has both, with nothing in it.
fn is_sequence(value: &Value) -> bool {
    use ValueKind::{Iterable, Map, Seq, String, Undefined};
    let view = matches!(value.downcast_object_ref(), Some(Container::View(..)));
    matches!(value.kind(), String | Seq | Iterable | Map | Undefined) && !view
}

fn is_iterable(value: &Value) -> bool {
    is_sequence(value) || value.kind() == ValueKind::Iterable
}

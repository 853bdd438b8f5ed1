//! A template's expressions with Jinja2's meaning, where minijinja gives them another:
//!
//! * A tuple is no list: it prints otherwise.
//! * `<` and its kin compare values that have an order, and refuse others.
//! * `and` and `or` give one of their operands, also where minijinja computes them beforehand.
//! * A loop goes over the characters of a text and knows how many there are; one over `none` is an error.
//!
//! It works on tokens: each rewriting puts a filter or a function around what stands there.

use super::template_rewrite::{has_product, is_boundary, operand, operand_start};
use super::template_tokens::{Token, tokens};

/// The filter that gives its value, and keeps minijinja from computing an expression beforehand.
pub(super) const SAME: &str = "python_same";
/// The filter for what a loop goes over.
pub(super) const ITEMS: &str = "python_items";
/// The filter for the left side of `<`, with the right side.
pub(super) const ORDERED: &str = "python_ordered";
/// The function that makes a tuple of a list.
pub(super) const TUPLE: &str = "python_tuple";

/// The source to compile.
///
/// # Errors
/// The construct that would mean something else, in words.
pub(super) fn rewritten(source: &str) -> Result<String, String> {
    let source = ordered(&source_with_operands_kept(source));
    let source = loops(&source);
    arguments_of_a_macro(&source)?;
    tuples(&source)
}

/// Pieces to put into a source, each at a byte.
#[derive(Default)]
struct Insertions(Vec<(usize, String)>);

impl Insertions {
    fn put(&mut self, at: usize, text: impl Into<String>) {
        self.0.push((at, text.into()));
    }

    fn into(mut self, source: &str) -> String {
        // The bracket of an outer tuple stands before the name of an inner one.
        self.0.sort_by_key(|(at, text)| (*at, text != "["));
        let (mut out, mut from) = (String::with_capacity(source.len()), 0);
        for (at, text) in self.0 {
            out.push_str(&source[from..at]);
            out.push_str(&text);
            from = at;
        }
        out + &source[from..]
    }
}

fn end(token: &Token) -> usize {
    token.at + token.text.len()
}

/// A constant before `and` or `or` goes through a filter.
fn source_with_operands_kept(source: &str) -> String {
    let tokens = tokens(source);
    let mut pieces = Insertions::default();
    for at in (1..tokens.len()).filter(|&at| matches!(tokens[at].text, "and" | "or")) {
        let last = &tokens[at - 1];
        let word = matches!(last.text, "none" | "true" | "false" | "None" | "True" | "False");
        let text = |back: usize| at.checked_sub(back).map_or("", |index| tokens[index].text);
        let tested = text(2) == "is" || (text(2) == "not" && text(3) == "is");
        if last.text.starts_with(['"', '\'']) || last.text.starts_with(|c: char| c.is_ascii_digit()) || (word && !tested) {
            pieces.put(end(last), format!("|{SAME}"));
        }
    }
    pieces.into(source)
}

/// Both sides of `<`, `<=`, `>` and `>=` must have an order.
fn ordered(source: &str) -> String {
    /// A right side of more tokens is not written twice.
    const LONGEST: usize = 40;
    let tokens = tokens(source);
    let mut pieces = Insertions::default();
    for at in (1..tokens.len()).filter(|&at| matches!(tokens[at].text, "<" | ">")) {
        let start = operand_start(&tokens, at);
        let left = &tokens[start..at];
        let right_start = if tokens.get(at + 1).is_some_and(|next| next.text == "=") { at + 2 } else { at + 1 };
        let (stop, _) = operand(&tokens, right_start);
        let right = tokens.get(right_start..stop).unwrap_or_default();
        let (Some(last), Some(first), Some(final_)) = (left.last(), right.first(), right.last()) else { continue };
        let compares = right.iter().any(|token| matches!(token.text, "<" | ">" | "%" | "*" | "/"));
        if right.len() > LONGEST
            || compares
            || has_product(left)
            || is_boundary(first.text) && !matches!(first.text, "(" | "[" | "-")
        {
            continue;
        }
        pieces.put(end(last), format!("|{ORDERED}({})", &source[first.at..end(final_)]));
    }
    pieces.into(source)
}

/// What a loop goes over, through a filter.
fn loops(source: &str) -> String {
    let tokens = tokens(source);
    let mut pieces = Insertions::default();
    for start in 1..tokens.len() {
        let begins = tokens[start].text == "for"
            && (tokens[start - 1].text == "{%"
                || (start > 1 && tokens[start - 2].text == "{%" && matches!(tokens[start - 1].text, "-" | "+")));
        let Some(within) = begins.then(|| (start..tokens.len()).find(|&at| matches!(tokens[at].text, "in" | "%}"))).flatten()
        else {
            continue;
        };
        let mut depth = 0;
        let stop = (within + 1..tokens.len()).find(|&at| {
            match tokens[at].text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                _ => {}
            }
            depth == 0 && matches!(tokens[at].text, "if" | "recursive" | "%}")
        });
        let (Some(mut stop), "in") = (stop, tokens[within].text) else { continue };
        if matches!(tokens[stop - 1].text, "-" | "+") && tokens[stop].text == "%}" {
            stop -= 1;
        }
        if stop > within + 1 {
            pieces.put(tokens[within + 1].at, "(");
            pieces.put(end(&tokens[stop - 1]), format!(")|{ITEMS}"));
        }
    }
    pieces.into(source)
}

/// The names of a macro's parameters are a tuple in Python, which nobody uses.
fn arguments_of_a_macro(source: &str) -> Result<(), String> {
    let tokens = tokens(source);
    let names: Vec<&str> = tokens.windows(2).filter(|two| two[0].text == "macro").map(|two| two[1].text).collect();
    let used =
        tokens.windows(3).find(|three| three[1].text == "." && three[2].text == "arguments" && names.contains(&three[0].text));
    used.map_or(Ok(()), |three| Err(format!("it reads the attribute `arguments` of the macro `{}`", three[0].text)))
}

/// Tuples are made by a function; those that are added, sliced or compared are refused.
fn tuples(source: &str) -> Result<String, String> {
    const BEFORE: [&str; 12] = ["in", "and", "or", "not", "if", "elif", "else", "is", "print", "recursive", "return", "do"];
    let tokens = tokens(source);
    let mut pieces = Insertions::default();
    let mut open = Vec::new();
    // Between `set` and `=`, and between `for` and `in`, stands what is assigned to.
    let mut assigned = false;
    for (at, token) in tokens.iter().enumerate() {
        let before = if at > 0 { tokens[at - 1].text } else { "" };
        match token.text {
            "set" | "for" if matches!(before, "{%" | "-" | "+") => assigned = true,
            "=" | "in" | "%}" => assigned = false,
            _ => {}
        }
        match token.text {
            "(" | "[" | "{" => open.push((at, false)),
            "," => {
                if let Some(last) = open.last_mut() {
                    last.1 = true;
                }
            }
            ")" | "]" | "}" => {
                let Some((from, comma)) = open.pop() else { continue };
                let before = if from > 0 { tokens[from - 1].text } else { "" };
                let named = before.starts_with(|c: char| c.is_alphanumeric() || c == '_') && !BEFORE.contains(&before);
                let called = named || before.starts_with(['"', '\'', ')', ']', '}']) && !matches!(before, "}}");
                let tuple = token.text == ")" && tokens[from].text == "(" && !called && (comma || from + 1 == at) && !assigned;
                // What is only searched or gone through may be a list.
                let after = tokens.get(at + 1).map_or("", |next| next.text);
                if !tuple || (before == "in" && after != "[") {
                    continue;
                }
                let sliced = after == "[" && slice(&tokens[at + 1..]);
                let joined = |text: &str| matches!(text, "+" | "==" | "!" | "*" | "<" | ">");
                let control = |index: usize| index > 0 && matches!(tokens[index - 1].text, "{{" | "{%");
                let equals = before == "=" && from >= 2 && matches!(tokens[from - 2].text, "!" | "<" | ">");
                if sliced || joined(after) || equals || (joined(before) && !control(from - 1)) {
                    return Err("it adds, slices or compares a tuple".to_string());
                }
                pieces.put(tokens[from].at + 1, "[");
                pieces.put(tokens[from].at, TUPLE);
                pieces.put(token.at, "]");
            }
            _ => {}
        }
    }
    Ok(pieces.into(source))
}

/// Whether the bracket that opens the tokens holds a `:` of its own.
fn slice(tokens: &[Token]) -> bool {
    let mut depth = 0;
    for token in tokens {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            ":" if depth == 1 => return true,
            _ => {}
        }
        if depth == 0 {
            break;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_keep_their_meaning() {
        for (source, expected) in [
            ("{{ (1, 'x') }}{{ f(a, b) }}{{ (a) }}", "{{ python_tuple([1, 'x']) }}{{ f(a, b) }}{{ (a) }}"),
            ("{{ () }}{{ f() }}{{ ((1,), 2) }}", "{{ python_tuple([]) }}{{ f() }}{{ python_tuple([python_tuple([1,]), 2]) }}"),
            ("{{ x in ('a', 'b') }}{% set (a, b) = x %}", "{{ x in ('a', 'b') }}{% set (a, b) = x %}"),
            ("{{ x.startswith(('a', 'b')) }}", "{{ x.startswith(python_tuple(['a', 'b'])) }}"),
            (
                "{%- for (a, b) in x.y if a -%}{{ a }}{% endfor %}",
                "{%- for (a, b) in (x.y)|python_items if a -%}{{ a }}{% endfor %}",
            ),
            ("{% for a in x[1:] -%}{% endfor %}", "{% for a in (x[1:])|python_items -%}{% endfor %}"),
            ("{{ a.b < c and d }}", "{{ a.b|python_ordered(c) < c and d }}"),
            ("{{ '' and x is none and none or 1 }}", "{{ ''|python_same and x is none and none|python_same or 1 }}"),
        ] {
            assert_eq!(rewritten(source).unwrap(), expected);
        }
        for refused in
            ["{{ (1,) + x }}", "{{ (1, 2)[1:] }}", "{{ x == (1, 2) }}", "{% macro m(a) %}{% endmacro %}{{ m.arguments }}"]
        {
            assert!(rewritten(refused).is_err(), "{refused}");
        }
    }
}

//! A template's expressions with Jinja2's meaning, where minijinja gives them another:
//!
//! * A tuple is no list: it prints otherwise, equals no list, and its slices are tuples.
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
/// The filter for the left side of `==`, with the right side.
pub(super) const ALIKE: &str = "python_alike";
/// The function for a slice, with what it was cut out of.
pub(super) const CUT: &str = "python_cut";
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

/// Tuples are made by a function, so are slices of them, and what is compared with one goes through a filter; those that are added or
/// repeated are refused.
fn tuples(source: &str) -> Result<String, String> {
    const REFUSED: &str = "it adds or repeats a tuple";
    let source = &compared(source);
    let tokens = tokens(source);
    let literals = literal_tuples(&tokens);
    let mut pieces = Insertions::default();
    for &(from, to) in &literals {
        let text = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map_or("", |token| token.text);
        let (before, after) = (text(from.checked_sub(1)), text(Some(to + 1)));
        // What is only searched or gone through may be a list.
        if before == "in" && after != "[" {
            continue;
        }
        if is_joined(&tokens, from, to + 1) {
            return Err(REFUSED.to_string());
        }
        if after == "[" && slice(&tokens[to + 1..]) {
            pieces.put(tokens[from].at, format!("{TUPLE}("));
            pieces.put(end(&tokens[closing(&tokens, to + 1)]), ")");
        }
        pieces.put(tokens[from].at + 1, "[");
        pieces.put(tokens[from].at, TUPLE);
        pieces.put(tokens[to].at, "]");
    }
    for name in variables_with_tuples(&tokens, &literals) {
        for at in uses(&tokens, name) {
            if is_joined(&tokens, at, at + 1) {
                return Err(format!("{REFUSED} (`{name}`)"));
            }
            if tokens.get(at + 1).is_some_and(|next| next.text == "[") && slice(&tokens[at + 1..]) {
                pieces.put(tokens[at].at, format!("{CUT}({name}, "));
                pieces.put(end(&tokens[closing(&tokens, at + 1)]), ")");
            }
        }
    }
    Ok(pieces.into(source))
}

/// Where a variable is read.
fn uses<'t>(tokens: &'t [Token<'t>], name: &'t str) -> impl Iterator<Item = usize> + 't {
    (0..tokens.len()).filter(move |&at| {
        let own = at == 0 || !matches!(tokens[at - 1].text, "." | "set" | "for");
        tokens[at].text == name && own && tokens.get(at + 1).is_none_or(|next| next.text != "=")
    })
}

/// Where a tuple may stand on either side of `==` or `!=`, the left side goes through a filter that has the right side as well.
fn compared(source: &str) -> String {
    let tokens = tokens(source);
    let literals = literal_tuples(&tokens);
    let variables = variables_with_tuples(&tokens, &literals);
    let mut places: Vec<usize> = literals.iter().map(|&(from, _)| from).collect();
    places.extend(variables.into_iter().flat_map(|name| uses(&tokens, name)));
    let mut pieces = Insertions::default();
    for at in 1..tokens.len() {
        let unequal = tokens[at].text == "!" && tokens.get(at + 1).is_some_and(|next| next.text == "=");
        if tokens[at].text != "==" && !unequal {
            continue;
        }
        let right_start = at + 1 + usize::from(unequal);
        let (start, (stop, _)) = (operand_start(&tokens, at), operand(&tokens, right_start));
        let among = places.iter().any(|&place| (start..at).contains(&place) || (right_start..stop).contains(&place));
        // What is computed is no tuple; one that is added or repeated is refused.
        let before = |back: usize| start.checked_sub(back).map_or("", |index| tokens[index].text);
        let part = matches!(before(1), "+" | "-" | "~") && !is_begin(before(2));
        let (Some(last), Some(end_of_right)) = (tokens[start..at].last(), tokens[..stop.min(tokens.len())].last()) else {
            continue;
        };
        if among && !part && !has_product(&tokens[start..at]) && stop > right_start {
            pieces.put(end(last), format!("|{ALIKE}({})", &source[tokens[right_start].at..end(end_of_right)]));
        }
    }
    pieces.into(source)
}

/// The brackets of all tuples, each by the tokens that open and close it.
fn literal_tuples(tokens: &[Token]) -> Vec<(usize, usize)> {
    const BEFORE: [&str; 12] = ["in", "and", "or", "not", "if", "elif", "else", "is", "print", "recursive", "return", "do"];
    let (mut open, mut found) = (Vec::new(), Vec::new());
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
                if token.text == ")" && tokens[from].text == "(" && !called && (comma || from + 1 == at) && !assigned {
                    found.push((from, at));
                }
            }
            _ => {}
        }
    }
    found
}

/// Whether an operator that makes a longer sequence stands before token `from` or at token `after`.
fn is_joined(tokens: &[Token], from: usize, after: usize) -> bool {
    let text = |at: Option<usize>| at.and_then(|at| tokens.get(at)).map_or("", |token| token.text);
    let joins = |text: &str| matches!(text, "+" | "*");
    let (one, two) = (text(from.checked_sub(1)), text(from.checked_sub(2)));
    let control = from > 0 && is_begin(two) && tokens[from - 1].at == tokens[from - 2].at + 2;
    let control_after = after + 1 < tokens.len() && matches!(tokens[after + 1].text, "%}" | "}}");
    (joins(text(Some(after))) && !control_after) || (joins(one) && !control)
}

fn is_begin(text: &str) -> bool {
    matches!(text, "{{" | "{%")
}

/// The variables that may hold tuples.
fn variables_with_tuples<'a>(tokens: &[Token<'a>], literals: &[(usize, usize)]) -> Vec<&'a str> {
    let ends = |at: usize| tokens.get(at).is_some_and(|token| matches!(token.text, "%}" | "-" | "+" | ","));
    let whole = |start: usize| literals.iter().any(|&(from, to)| from == start && ends(to + 1));
    let mut found = Vec::new();
    let mut in_tag = "";
    for at in 1..tokens.len() {
        let previous = tokens[at - 1].text;
        if previous == "{%" || (at > 1 && tokens[at - 2].text == "{%" && matches!(previous, "-" | "+")) {
            in_tag = tokens[at].text;
        }
        let name = tokens[at].text;
        let next = |ahead: usize| tokens.get(at + ahead).map_or("", |token| token.text);
        let target = matches!(previous, "set" | "with" | "for") || (in_tag == "with" && previous == ",");
        if !target || !name.starts_with(|c: char| c.is_alphabetic() || c == '_') {
            continue;
        }
        let tuple = match (in_tag, next(1)) {
            ("set" | "with", "=") => whole(at + 2),
            ("for", "in") => {
                let stop = (at + 2..tokens.len()).find(|&at| tokens[at].text == "%}").unwrap_or(tokens.len());
                let pairs = tokens[at + 2..stop].windows(2).any(|two| two[0].text == "." && two[1].text == "items")
                    || tokens[at + 2..stop]
                        .windows(2)
                        .any(|two| two[0].text == "|" && matches!(two[1].text, "items" | "dictsort"));
                // Of a literal list of tuples: each element is one.
                let first = literals.iter().any(|&(from, _)| from == at + 3) && matches!(next(2), "[" | "(");
                pairs || first
            }
            _ => continue,
        };
        if tuple && !found.contains(&name) {
            found.push(name);
        }
    }
    found
}

/// Where the bracket closes that opens at token `at`.
fn closing(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    tokens.len() - 1
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
            ("{{ (1, 2)[1:] }}", "{{ python_tuple(python_tuple([1, 2])[1:]) }}"),
            ("{{ x[0] == (1, 2) }}", "{{ x[0]|python_alike(python_tuple([1, 2])) == python_tuple([1, 2]) }}"),
            (
                "{% set t = (1,) %}{{ t[1:] != u or v == 1 }}",
                "{% set t = python_tuple([1,]) %}{{ python_cut(t, t[1:])|python_alike(u) != u or v == 1 }}",
            ),
            ("{{ a.b < c and d }}", "{{ a.b|python_ordered(c) < c and d }}"),
            ("{{ '' and x is none and none or 1 }}", "{{ ''|python_same and x is none and none|python_same or 1 }}"),
        ] {
            assert_eq!(rewritten(source).unwrap(), expected);
        }
        for refused in ["{{ (1,) + x }}", "{% set t = (1, 2) %}{{ t * 2 }}", "{% macro m(a) %}{% endmacro %}{{ m.arguments }}"] {
            assert!(rewritten(refused).is_err(), "{refused}");
        }
    }
}

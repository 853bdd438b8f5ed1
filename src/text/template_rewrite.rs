//! A chat template's source as minijinja reads it with the meaning that Jinja2 gives it.
//!
//! * Line ends are all `\n`, in text and in strings.
//! * `{% generation %}` ... `{% endgeneration %}` marks what the assistant wrote and prints nothing itself. It is a scope of its own,
//!   which is what `{% with %}` is.
//! * `'...' % value`, which minijinja knows for numbers only, becomes a filter.
//! * The operands of `~` are written as Python writes them, by a filter.
//!
//! What an expression means, and not how it is written, is the business of [`super::template_meaning`].
//!
//! What cannot be rewritten and would have another meaning is refused by name.

use super::template_meaning;
use super::template_tokens::{Token, tokens};

/// The filters that stand for `%` after a string: with one value, and with a tuple of them.
pub(super) const PERCENT: &str = "python_percent";
pub(super) const PERCENT_TUPLE: &str = "python_percent_tuple";
/// The filter for an operand of `~`.
pub(super) const STR: &str = "python_str";

/// The source to compile.
///
/// # Errors
/// The construct that minijinja would read otherwise than Jinja2, in words.
pub(super) fn rewritten(source: &str) -> Result<String, String> {
    let source = source.replace("\r\n", "\n").replace('\r', "\n");
    let source = without_generation_tags(&source);
    if let Some(problem) = default_of_another(&source) {
        return Err(problem);
    }
    template_meaning::rewritten(&concatenated_as_text(&percent_as_filter(&with_line_end_after_raw(&source))))
}

fn without_generation_tags(source: &str) -> String {
    let (mut out, mut from) = (String::with_capacity(source.len()), 0);
    let tokens = tokens(source);
    for (at, _) in tokens.iter().enumerate().filter(|(_, token)| token.text == "{%") {
        let Some(word) = tokens[at + 1..].iter().find(|token| !matches!(token.text, "-" | "+")) else { break };
        let plain = match word.text {
            "generation" => "with",
            "endgeneration" => "endwith",
            _ => continue,
        };
        out.push_str(&source[from..word.at]);
        out.push_str(plain);
        from = word.at + word.text.len();
    }
    out + &source[from..]
}

/// The line end after `{% raw %}` is text, and no part of the tag as after others. It is written as an expression, so that the lines
/// of the source keep their numbers.
fn with_line_end_after_raw(source: &str) -> String {
    let (mut out, mut from) = (String::with_capacity(source.len()), 0);
    let tokens = tokens(source);
    for (at, token) in tokens.iter().enumerate().skip(2) {
        let before = |back: usize| at.checked_sub(back).map_or("", |index| tokens[index].text);
        let tag = before(2) == "{%" || (matches!(before(2), "-" | "+") && before(3) == "{%");
        let end = token.at + token.text.len();
        if token.text == "%}" && before(1) == "raw" && tag && source[end..].starts_with('\n') {
            out.push_str(&source[from..end]);
            out.push_str("{% endraw %}{{ '\\n' }}{% raw %}");
            from = end;
        }
    }
    out + &source[from..]
}

/// A macro one of whose defaults is another parameter: Jinja2 takes its value in this call, minijinja finds none.
fn default_of_another(source: &str) -> Option<String> {
    let tokens = tokens(source);
    for start in (0..tokens.len().saturating_sub(2)).filter(|&at| tokens[at].text == "macro") {
        let (mut depth, mut names, mut in_default) = (0, Vec::new(), false);
        for pair in tokens[start + 2..].windows(2) {
            match pair[0].text {
                "(" | "[" | "{" => depth += 1,
                ")" | "]" | "}" => depth -= 1,
                "," if depth == 1 => in_default = false,
                "=" if depth == 1 => in_default = true,
                name if in_default && names.contains(&name) && pair[1].text != "=" => {
                    return Some(format!(
                        "the default of a parameter of the macro `{}` is another parameter, `{name}`",
                        tokens[start + 1].text
                    ));
                }
                name if depth == 1 && !in_default => names.push(name),
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    None
}

/// Rewrites `'...' % value`. The value ends where an operator that binds no tighter than `%` follows.
fn percent_as_filter(source: &str) -> String {
    let tokens = tokens(source);
    let (mut out, mut from) = (String::with_capacity(source.len()), 0);
    let is_string = |token: &Token| token.text.starts_with(['\'', '"']);
    for at in 1..tokens.len() {
        if tokens[at].text != "%" || !is_string(&tokens[at - 1]) || tokens[at].at < from {
            continue;
        }
        let (end, tuple) = operand(&tokens, at + 1);
        let Some(last) = end.checked_sub(1).filter(|&last| last > at) else { continue };
        let stop = tokens[last].at + tokens[last].text.len();
        let filter = if tuple { PERCENT_TUPLE } else { PERCENT };
        out.push_str(&source[from..tokens[at].at]);
        out.push_str(&format!("|{filter}({})", percent_as_filter_in(&source[tokens[at + 1].at..stop])));
        from = stop;
    }
    out + &source[from..]
}

/// An operand may hold such a string itself.
fn percent_as_filter_in(expression: &str) -> String {
    let wrapped = percent_as_filter(&format!("{{{{ {expression} }}}}"));
    wrapped[3..wrapped.len() - 3].to_string()
}

/// Where the operand that begins with token `start` ends, and whether it is a tuple.
pub(super) fn operand(tokens: &[Token], start: usize) -> (usize, bool) {
    let (mut depth, mut commas, mut at) = (0, false, start);
    while let Some(token) = tokens.get(at) {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" if depth > 0 => {
                depth -= 1;
                // `(1, 2)` alone is the tuple; `(1, 2)[0]` and `(a)` are not.
                let goes_on = tokens.get(at + 1).is_some_and(|next| matches!(next.text, "." | "[" | "(" | "|"));
                if depth == 0 && goes_on {
                    commas = false;
                }
            }
            "," if depth == 1 && tokens[start].text == "(" => commas = true,
            "~" | "+" | "-" | "*" | "/" | "%" | "=" | "==" | "!" | "<" | ">" | "," | ")" | "]" | "}" | ":" | "%}" | "}}"
            | "and" | "or" | "if" | "else" | "in" | "not" | "is"
                if depth == 0 && at > start =>
            {
                break;
            }
            _ => {}
        }
        at += 1;
    }
    (at, commas)
}

/// Where an expression ends that binds tighter than `~`: what stands between two of these is one operand.
pub(super) fn is_boundary(text: &str) -> bool {
    const SIGNS: [&str; 21] =
        ["~", "+", "-", "(", "[", "{", ")", "]", "}", ",", "=", "==", "!", "<", ">", ":", "{{", "}}", "{%", "%}", ";"];
    const WORDS: [&str; 11] = ["and", "or", "not", "if", "elif", "else", "in", "is", "set", "for", "recursive"];
    SIGNS.contains(&text) || WORDS.contains(&text)
}

/// Where the operand begins that ends before token `at`.
pub(super) fn operand_start(tokens: &[Token], at: usize) -> usize {
    let mut start = at;
    while let Some(before) = start.checked_sub(1) {
        match tokens[before].text {
            ")" | "]" | "}" => start = opening(tokens, before),
            text if is_boundary(text) => break,
            _ => start = before,
        }
    }
    start
}

/// Puts a filter behind the operands of `~`, where this changes nothing but how a value is written.
fn concatenated_as_text(source: &str) -> String {
    let tokens = tokens(source);
    let mut places = std::collections::BTreeSet::new();
    for at in (1..tokens.len()).filter(|&at| tokens[at].text == "~") {
        let start = operand_start(&tokens, at);
        let (end, _) = operand(&tokens, at + 1);
        for (from, to) in [(start, at), (at + 1, end)] {
            let within = tokens.get(from..to).unwrap_or_default();
            // A sign before it, a product of it and a test of it all take the value itself.
            let signed =
                from >= 2 && tokens[from - 1].text == "-" && is_boundary(tokens[from - 2].text) && !is_control(&tokens, from - 1);
            let tested = tokens.get(to).is_some_and(|next| matches!(next.text, "is" | "*" | "/" | "%"));
            let negated = within.first().is_some_and(|first| matches!(first.text, "-" | "not"));
            let (Some(last), false) = (within.last(), signed || tested || negated || has_product(within)) else { continue };
            if within.len() > 1 || !last.text.starts_with(['"', '\'']) {
                places.insert(last.at + last.text.len());
            }
        }
    }
    let (mut out, mut from) = (String::with_capacity(source.len()), 0);
    for place in places {
        out.push_str(&source[from..place]);
        out.push_str(&format!("|{STR}"));
        from = place;
    }
    out + &source[from..]
}

/// Whether `-` at this token belongs to the begin of its tag.
fn is_control(tokens: &[Token], at: usize) -> bool {
    at > 0 && matches!(tokens[at - 1].text, "{{" | "{%") && tokens[at].at == tokens[at - 1].at + 2
}

/// Where the bracket opens that closes at `at`.
pub(super) fn opening(tokens: &[Token], at: usize) -> usize {
    let mut depth = 0;
    for index in (0..=at).rev() {
        match tokens[index].text {
            ")" | "]" | "}" => depth += 1,
            "(" | "[" | "{" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return index;
        }
    }
    0
}

/// Whether an operator that binds tighter than `~` stands outside all brackets.
pub(super) fn has_product(tokens: &[Token]) -> bool {
    let mut depth = 0;
    tokens.iter().any(|token| {
        match token.text {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth -= 1,
            _ => {}
        }
        depth == 0 && matches!(token.text, "*" | "/" | "%" | "is")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_ends_and_generation_tags() {
        let source =
            "a\r\n{%- generation -%}\r b {% endgeneration %} {% if x %}c{% endif %} {% raw %}{% generation %}{% endraw %} {%";
        let plain = "a\n{%- with -%}\n b {% endwith %} {% if x %}c{% endif %} {% raw %}{% generation %}{% endraw %} {%";
        assert_eq!(rewritten(source).unwrap(), plain);
    }

    #[test]
    fn percent_after_a_string() {
        for (source, expected) in [
            ("{{ '%s' % x }}", "{{ '%s' |python_percent(x) }}"),
            ("{{ '%s %s' % (a, b) ~ c }}", "{{ '%s %s' |python_percent_tuple(python_tuple([a, b]))|python_str ~ c|python_str }}"),
            ("{{ '%s' % (a) }}", "{{ '%s' |python_percent((a)) }}"),
            ("{{ '%s' % (a, b)[0] }}", "{{ '%s' |python_percent(python_tuple([a, b])[0]) }}"),
            ("{{ '%s' % x.y|trim + z }}", "{{ '%s' |python_percent(x.y|trim) + z }}"),
            ("{{ '%s' % ('%d' % 1) }}", "{{ '%s' |python_percent(('%d' |python_percent(1))) }}"),
            ("{{ i % 2 }}{% if i % 2 == 0 %}%{% endif %}'a' % b", "{{ i % 2 }}{% if i % 2 == 0 %}%{% endif %}'a' % b"),
        ] {
            assert_eq!(rewritten(source).unwrap(), expected);
        }
    }

    #[test]
    fn operands_of_a_concatenation() {
        for (source, expected) in [
            ("{{- 'a' ~ b ~ 'c' }}", "{{- 'a' ~ b|python_str ~ 'c' }}"),
            (
                "{{ a.b[0] ~ f(x, 1) if c else d ~ e }}",
                "{{ a.b[0]|python_str ~ f(x, 1)|python_str if c else d|python_str ~ e|python_str }}",
            ),
            ("{{ a|trim ~ '\\n' + b }}", "{{ a|trim|python_str ~ '\\n' + b }}"),
            ("{{ a * 2 ~ -b ~ c is defined }}", "{{ a * 2 ~ -b ~ c is defined }}"),
            ("{{ (a ~ b) ~ [c] }}", "{{ (a|python_str ~ b|python_str)|python_str ~ [c]|python_str }}"),
            ("{% set x = y ~ z %}~", "{% set x = y|python_str ~ z|python_str %}~"),
        ] {
            assert_eq!(rewritten(source).unwrap(), expected);
        }
    }

    #[test]
    fn a_default_that_is_another_parameter_is_named() {
        let problem = rewritten("{% macro f(a, b=[a]) %}{% endmacro %}").unwrap_err();
        assert!(problem.contains("`f`") && problem.contains("`a`"), "{problem}");
        assert!(rewritten("{% macro f(a, b=1, c='a') %}{{ a }}{% endmacro %}{{ f(a, b=a) }}").is_ok());
    }
}

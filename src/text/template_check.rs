//! What a chat template may not do: hold a namespace as a value.
//!
//! `{% set ns.x = ns %}` makes a value that contains itself, and printing, comparing or joining it would never end: it overflows the
//! stack, which no program survives. A namespace that is only ever written to and read from (`ns.x`) cannot get into itself, and no
//! template of a known model uses one in another way.

/// The first place at which `source` uses a namespace as a value, or makes one otherwise than by `{% set NAME = namespace(...) %}`.
pub(super) fn namespace_as_value(source: &str) -> Option<String> {
    let tokens = tokens(source);
    let at = |index: usize| tokens.get(index).copied().unwrap_or("");
    let mut namespaces = Vec::new();
    for (index, &token) in tokens.iter().enumerate() {
        if token == "namespace" && (index == 0 || at(index - 1) != ".") {
            let made = index >= 3 && at(index - 3) == "set" && at(index - 1) == "=" && at(index + 1) == "(";
            if !made {
                return Some("it makes a namespace otherwise than by `{% set NAME = namespace(...) %}`".to_string());
            }
            namespaces.push(at(index - 2));
        }
    }
    let as_value = |index: usize| {
        let name = at(index);
        let attribute = index > 0 && at(index - 1) == ".";
        // `set ns = namespace(...)` and keyword arguments name it; `ns.x` is one of its values.
        namespaces.contains(&name) && !attribute && at(index + 1) != "." && at(index + 1) != "="
    };
    let used = (0..tokens.len()).find(|&index| as_value(index))?;
    Some(format!("it uses the namespace `{}` as a value", at(used)))
}

/// The words and signs inside `{{ }}` and `{% %}`, without white space, numbers and the content of strings.
fn tokens(source: &str) -> Vec<&str> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at) = (Vec::new(), 0);
    // Where the tag begins in `tokens`, and the brackets that are open in it: while one is, `}}` does not end it.
    let (mut inside, mut tag, mut open) = (false, 0, 0_i64);
    while at < bytes.len() {
        let start = at;
        let two = &bytes[at..bytes.len().min(at + 2)];
        if !inside {
            match two {
                b"{{" | b"{%" => (inside, tag, open, at) = (true, tokens.len(), 0, at + 2),
                b"{#" => at = source[at + 2..].find("#}").map_or(bytes.len(), |length| at + length + 4),
                _ => at += 1,
            }
            continue;
        }
        match bytes[at] {
            b'%' | b'}' if open == 0 && matches!(two, b"%}" | b"}}") => {
                (inside, at) = (false, at + 2);
                if tokens[tag..].iter().filter(|token| !matches!(**token, "-" | "+")).eq(["raw"].iter()) {
                    at = end_of_raw(source, at);
                }
                tokens.push("");
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
                tokens.push("\"\"");
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || bytes[at] >= 0x80) {
                    at += 1;
                }
                tokens.push(&source[start..at]);
            }
            b'=' if two == b"==" => {
                at += 2;
                tokens.push("==");
            }
            byte => {
                at += 1;
                open += i64::from(b"([{".contains(&byte)) - i64::from(b")]}".contains(&byte));
                if byte.is_ascii_punctuation() {
                    tokens.push(&source[start..at]);
                }
            }
        }
    }
    tokens
}

/// Where the tag `{% endraw %}` begins that ends what began at `from`.
fn end_of_raw(source: &str, from: usize) -> usize {
    let tags = source[from..].match_indices("{%").map(|(offset, _)| from + offset);
    let ends = |at: &usize| source[at + 2..].trim_start_matches(['-', '+']).trim_start().starts_with("endraw");
    tags.into_iter().find(ends).unwrap_or(source.len())
}

#[cfg(test)]
mod tests {
    use super::namespace_as_value;

    #[test]
    fn namespaces_may_be_written_and_read_and_nothing_else() {
        let allowed = "{# ns #}ns {% set ns = namespace(text='', ns=1) %}{% set ns.text = ns.text ~ 'ns' ~ x.ns %}\
                       {% if ns.text == \"ns\\\"ns\" %}{{ns.text}}{%- endif -%} ns {{ {'a': {'ns': ns.text}} }}";
        assert_eq!(namespace_as_value(allowed), None);
        for wrong in [
            "{% set ns = namespace(text='') %}{% set ns.text = ns %}",
            "{% set ns = namespace() %}{% set ns.x = [ns] %}",
            "{% set ns = namespace() %}{% set b = ns %}{% set ns.x = b %}",
            "{% set ns=namespace() %}{{ ns|string }}",
            "{% set ns = namespace() %}{% if ns == ns %}{% endif %}",
            "{% set ns = namespace() %}{% macro m(q) %}{% set q.x = q %}{% endmacro %}{{ m(ns) }}",
            "{% set make = namespace %}{% set ns = make() %}",
            "{% set ns = [namespace()] %}",
            "{% with ns = namespace() %}{{ ns }}{% endwith %}",
            "{% set a = namespace(b=namespace()) %}",
            "{% set ns = namespace() %}{{ '}}' }}{{ '{{' ~ ns }}",
            "{% set ns = namespace() %}{{ {'a': {'b': 1}} ~ ns }}",
            "{%- raw -%}{{ ' {%- endraw %}{% set ns = namespace() %}{{ ns }}",
        ] {
            assert!(namespace_as_value(wrong).is_some(), "{wrong}");
        }
    }
}

//! What a chat template may not do: hold a namespace as a value.
//!
//! `{% set ns.x = ns %}` makes a value that contains itself, and printing, comparing or joining it would never end: it overflows the
//! stack, which no program survives. A namespace that is only ever written to and read from (`ns.x`) cannot get into itself, and no
//! template of a known model uses one in another way.

use super::template_tokens::tokens;

/// The first place at which `source` uses a namespace as a value, or makes one otherwise than by `{% set NAME = namespace(...) %}`.
pub(super) fn namespace_as_value(source: &str) -> Option<String> {
    let tokens = words(source);
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
        // `set ns = namespace(...)` and keyword arguments name it; `ns.x` and `ns['x']` are one of its values.
        namespaces.contains(&name) && !attribute && !matches!(at(index + 1), "." | "=" | "[")
    };
    let used = (0..tokens.len()).find(|&index| as_value(index))?;
    Some(format!("it uses the namespace `{}` as a value", at(used)))
}

/// The words and signs inside `{{ }}` and `{% %}`; an end of either is empty, a string has no content.
fn words(source: &str) -> Vec<&str> {
    let tokens = tokens(source).into_iter().map(|token| token.text);
    let kept = tokens.filter(|text| !matches!(*text, "{{" | "{%") && !text.starts_with(|first: char| first.is_ascii_digit()));
    let plain = |text| match text {
        "}}" | "%}" => "",
        string if string.starts_with(['"', '\'']) => "\"\"",
        other => other,
    };
    kept.map(plain).collect()
}

#[cfg(test)]
mod tests {
    use super::namespace_as_value;

    #[test]
    fn namespaces_may_be_written_and_read_and_nothing_else() {
        let allowed = "{# ns #}ns {% set ns = namespace(text='', ns=1) %}{% set ns.text = ns.text ~ 'ns' ~ x.ns %}\
                       {% if ns.text == \"ns\\\"ns\" %}{{ns.text}}{%- endif -%} ns {{ {'a': {'ns': ns.text}} }}{{ ns['text'] ~ [ns[key]] }}";
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

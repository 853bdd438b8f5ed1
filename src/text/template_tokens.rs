//! The tokens of a template's source, for what looks at it before it is compiled.

/// A word, a sign, a number, a string with its quotes, or the begin or end of a tag (`{{`, `}}`, `{%`, `%}`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token<'a> {
    pub text: &'a str,
    /// The byte where it begins.
    pub at: usize,
}

/// What stands inside `{{ }}` and `{% %}`, without white space. Comments, raw blocks and text have no tokens.
pub(super) fn tokens(source: &str) -> Vec<Token<'_>> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at): (Vec<Token>, usize) = (Vec::new(), 0);
    // Where the tag begins in `tokens`, and the brackets that are open in it: while one is, `}}` does not end it.
    let (mut inside, mut tag, mut open) = (false, 0, 0_i64);
    while at < bytes.len() {
        let start = at;
        let two = &bytes[at..bytes.len().min(at + 2)];
        if !inside {
            match two {
                b"{{" | b"{%" => {
                    (inside, tag, open, at) = (true, tokens.len(), 0, at + 2);
                    tokens.push(Token { text: &source[start..at], at: start });
                }
                b"{#" => at = source[at + 2..].find("#}").map_or(bytes.len(), |length| at + length + 4),
                _ => at += 1,
            }
            continue;
        }
        match bytes[at] {
            b'%' | b'}' if open == 0 && matches!(two, b"%}" | b"}}") => {
                (inside, at) = (false, at + 2);
                let mut words = tokens[tag + 1..].iter().map(|token| token.text).filter(|text| !matches!(*text, "-" | "+"));
                if words.next() == Some("raw") && words.next().is_none() {
                    at = end_of_raw(source, at);
                }
                tokens.push(Token { text: &source[start..start + 2], at: start });
            }
            quote @ (b'"' | b'\'') => {
                at += 1;
                while at < bytes.len() && bytes[at] != quote {
                    at += if bytes[at] == b'\\' { 2 } else { 1 };
                }
                at = (at + 1).min(bytes.len());
                tokens.push(Token { text: source.get(start..at).unwrap_or("\"\""), at: start });
            }
            b'0'..=b'9' => {
                let dot = |at: usize| bytes[at] == b'.' && bytes.get(at + 1).is_some_and(u8::is_ascii_digit);
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || dot(at)) {
                    at += 1;
                }
                tokens.push(Token { text: &source[start..at], at: start });
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' | 0x80.. => {
                while at < bytes.len() && (bytes[at].is_ascii_alphanumeric() || bytes[at] == b'_' || bytes[at] >= 0x80) {
                    at += 1;
                }
                tokens.push(Token { text: &source[start..at], at: start });
            }
            b'=' if two == b"==" => {
                at += 2;
                tokens.push(Token { text: "==", at: start });
            }
            byte => {
                at += 1;
                open += i64::from(b"([{".contains(&byte)) - i64::from(b")]}".contains(&byte));
                if byte.is_ascii_punctuation() {
                    tokens.push(Token { text: &source[start..at], at: start });
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

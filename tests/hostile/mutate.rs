//! What a stranger may do to a file: to its bytes, to the tokens of its text, or to the fields of its directory.

use super::random::Random;

/// What a kind of file is made of.
#[derive(Clone, Copy, PartialEq)]
pub enum Structure {
    /// Words, strings, numbers and brackets: JSON, TOML, Jinja.
    Text,
    /// The length of a JSON header, the header, data.
    Safetensors,
    /// Counts, metadata pairs, tensor entries, data.
    Gguf,
    /// An archive of which nothing checks the sums, so that any byte of what is in it can be another.
    Archive,
}

/// No input is made larger than this.
const LARGEST: usize = 256 << 10;

/// One of the seeds, damaged once to a few times.
pub fn mutated(random: &mut Random, seeds: &[Vec<u8>], structure: Structure, words: &[&str]) -> Vec<u8> {
    let mut bytes = random.pick(seeds).clone();
    for _ in 0..=random.below(4) {
        let other = random.pick(seeds);
        match (structure, random.below(10)) {
            (Structure::Text, 0..7) => bytes = text(random, &bytes, other, words),
            (Structure::Safetensors, 0..7) => bytes = safetensors(random, &bytes, other, words),
            (Structure::Gguf, 0..7) => bytes = super::gguf_fields::mutated(random, &bytes, other),
            _ => raw(random, &mut bytes, other),
        }
        bytes.truncate(LARGEST);
    }
    bytes
}

/// Numbers at the edges of the types that a reader may use.
pub const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    3,
    31,
    33,
    127,
    255,
    65_535,
    65_536,
    1 << 24,
    (1 << 31) - 1,
    1 << 31,
    u32::MAX as u64,
    1 << 32,
    1_000_000_000_000,
    1_000_000_000_000_000_000,
    i64::MAX as u64,
    1 << 63,
    u64::MAX,
];

/// Damage that knows nothing of the structure.
fn raw(random: &mut Random, bytes: &mut Vec<u8>, other: &[u8]) {
    let at = random.below(bytes.len() + 1);
    let length = random.below(64).min(bytes.len() - at);
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 1 << random.below(8)),
        2 => {
            let number = if random.chance(2) { *random.pick(&NUMBERS) } else { random.next() };
            let size = *random.pick(&[1, 2, 4, 8]);
            bytes.iter_mut().skip(at).zip(&number.to_le_bytes()[..size]).for_each(|(byte, new)| *byte = *new);
        }
        3 => bytes.insert(at, random.next() as u8),
        4 => drop(bytes.drain(at..at + length)),
        5 => {
            let from = random.below(other.len() + 1);
            let piece = &other[from..(from + length).min(other.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
        // The beginning of one file and the end of another.
        _ => {
            bytes.truncate(at);
            bytes.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
    }
}

/// The header is damaged as text; mostly its length is put right again, so that the damage is looked at.
fn safetensors(random: &mut Random, bytes: &[u8], other: &[u8], words: &[&str]) -> Vec<u8> {
    let Some((header, data)) = header_of(bytes) else { return bytes.to_vec() };
    let other = header_of(other).map_or(header, |(header, _)| header);
    let header = text(random, header, other, words);
    let length = if random.chance(8) { *random.pick(&NUMBERS) } else { header.len() as u64 };
    [&length.to_le_bytes()[..], &header, data].concat()
}

fn header_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)
}

/// Damages one token of a text, or a stretch of tokens that belong together.
fn text(random: &mut Random, bytes: &[u8], other: &[u8], words: &[&str]) -> Vec<u8> {
    let tokens = tokens(bytes);
    if tokens.is_empty() {
        return random.pick(words).as_bytes().to_vec();
    }
    let at = random.below(tokens.len());
    let unit = unit(&tokens, at);
    let (before, after) = (tokens[..unit.start].concat(), tokens[unit.end..].concat());
    let piece = tokens[unit.clone()].concat();
    let middle: Vec<u8> = match random.below(9) {
        0 => Vec::new(),
        1 => {
            let most = (LARGEST / 2 / piece.len().max(1)).max(1);
            let times = *random.pick(&[1, 8, 3000]);
            piece.repeat(2 + random.below(times).min(most))
        }
        2 | 3 => extreme(random, tokens[at], words),
        4 => {
            let others = self::tokens(other);
            match others.is_empty() {
                true => piece,
                false => others[self::unit(&others, random.below(others.len()))].concat(),
            }
        }
        5 => {
            // Nested deeply, and closed or not.
            let (open, close) = *random.pick(&NESTS);
            let depth = *random.pick(&[1, 2, 60, 130, 300, 5000]);
            let mut nested = open.repeat(depth).into_bytes();
            nested.extend(&piece);
            if random.chance(2) {
                nested.extend(close.repeat(depth).bytes());
            }
            nested
        }
        6 => [&piece[..], random.pick(words).as_bytes(), b" "].concat(),
        7 => random.pick(words).as_bytes().to_vec(),
        _ => {
            // Two tokens change places.
            let with = random.below(tokens.len());
            let mut swapped = tokens.clone();
            swapped.swap(at, with);
            return swapped.concat();
        }
    };
    [before, middle, after].concat()
}

const NESTS: [(&str, &str); 15] = [
    ("[", "]"),
    ("{\"a\":", "}"),
    ("(", ")"),
    ("-", ""),
    ("not ", ""),
    ("{% if true %}", "{% endif %}"),
    ("{% for x in messages %}", "{% endfor %}"),
    ("a.", "a"),
    ("[[", "]]"),
    // Chains that a parser nests to one side or the other.
    ("1+", "1"),
    ("'a' ~ ", "1"),
    ("2**", "1"),
    ("1 if 1 else ", "1"),
    // A normaliser, a pre-tokenizer or a decoder in another; a text that grows.
    (r#"{"type": "Sequence", "normalizers": ["#, "]}"),
    (r#"{"type": "Replace", "pattern": {"String": "a"}, "content": "ab"}, "#, ""),
];

/// Another value of the kind of `token`.
fn extreme(random: &mut Random, token: &[u8], words: &[&str]) -> Vec<u8> {
    const WRITTEN: [&str; 18] = [
        "-1",
        "-9223372036854775808",
        "-9223372036854775809",
        "18446744073709551616",
        "99999999999999999999999999999999999999",
        "1e18",
        "1000000000000000000",
        "1e308",
        "1e400",
        "1e-400",
        "-0",
        "0.5",
        "-1.5",
        "NaN",
        "null",
        "true",
        "[]",
        "{}",
    ];
    const TEXTS: [&str; 13] = [
        "\"\"",
        "\"\\u0000\"",
        "\"\\ud800\"",
        "\"\u{1F642}\u{202e}\"",
        "\"../../../etc/passwd\"",
        "\"/dev/zero\"",
        "\"(a+)+$\"",
        "\"(?:a?){40}a{40}$b\"",
        "\"(?:\"",
        "\"\\\\\"",
        "\" \"",
        "7",
        "null",
    ];
    match token[0] {
        b'0'..=b'9' | b'-' if random.chance(2) => random.pick(&NUMBERS).to_string().into_bytes(),
        b'0'..=b'9' | b'-' => random.pick(&WRITTEN).as_bytes().to_vec(),
        b'"' | b'\'' if random.chance(8) => format!("\"{}\"", "a".repeat(1 << random.below(16))).into_bytes(),
        b'"' | b'\'' if random.chance(2) => format!("\"{}\"", random.pick(words).replace('"', "")).into_bytes(),
        b'"' | b'\'' => random.pick(&TEXTS).as_bytes().to_vec(),
        _ => random.pick(words).as_bytes().to_vec(),
    }
}

/// Strings, words, numbers, runs of white space, and single characters.
fn tokens(bytes: &[u8]) -> Vec<&[u8]> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let start = at;
        let run = |at: usize, is: fn(&u8) -> bool| bytes[at..].iter().take_while(|byte| is(byte)).count();
        at += match bytes[start] {
            quote @ (b'"' | b'\'') => {
                let mut end = start + 1;
                while end < bytes.len() && bytes[end] != quote {
                    end += if bytes[end] == b'\\' { 2 } else { 1 };
                }
                (end + 1).min(bytes.len()) - start
            }
            b'0'..=b'9' | b'-' => 1 + run(start + 1, |byte| byte.is_ascii_alphanumeric() || b".+-".contains(byte)),
            byte if byte.is_ascii_whitespace() => run(start, u8::is_ascii_whitespace),
            byte if byte.is_ascii_alphabetic() || byte == b'_' => {
                run(start, |byte| byte.is_ascii_alphanumeric() || *byte == b'_')
            }
            _ => 1,
        };
        tokens.push(&bytes[start..at]);
    }
    tokens
}

/// The tokens that belong together with token `at`: a bracket up to the one that closes it, a key with its value and comma.
fn unit(tokens: &[&[u8]], at: usize) -> std::ops::Range<usize> {
    let closing = |from: usize| {
        let mut depth = 0_i64;
        for (offset, token) in tokens[from..].iter().enumerate() {
            match token {
                [b'{' | b'[' | b'('] => depth += 1,
                [b'}' | b']' | b')'] => depth -= 1,
                _ => {}
            }
            if depth <= 0 {
                return from + offset + 1;
            }
        }
        tokens.len()
    };
    match tokens[at] {
        [b'{' | b'[' | b'('] => at..closing(at),
        [b'"', ..] if tokens.get(at + 1) == Some(&&b":"[..]) && at + 2 < tokens.len() => {
            let end = closing(at + 2);
            at..end + usize::from(tokens.get(end) == Some(&&b","[..]))
        }
        _ => at..at + 1,
    }
}

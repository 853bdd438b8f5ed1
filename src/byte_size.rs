//! Numbers of bytes as people write and read them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// A number of bytes as people write it: `600MB`, `1.5GiB`, `2000000000`. Decimal units count by 1000, binary ones by 1024.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ByteSize(pub usize);

/// Units from the longest name to the shortest, so that the first that fits is meant.
const UNITS: [(&str, f64); 10] = [
    ("kib", 1024.0),
    ("mib", 1_048_576.0),
    ("gib", 1_073_741_824.0),
    ("kb", 1e3),
    ("mb", 1e6),
    ("gb", 1e9),
    ("k", 1e3),
    ("m", 1e6),
    ("g", 1e9),
    ("b", 1.0),
];

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let lower = text.trim().to_lowercase();
        let unit = UNITS.iter().find_map(|(name, factor)| Some((lower.strip_suffix(name)?, *factor)));
        let (number, factor) = unit.unwrap_or((&lower, 1.0));
        let bytes = number.trim().parse::<f64>().ok().map(|number| number * factor);
        match bytes.filter(|bytes| bytes.is_finite() && *bytes >= 1.0 && *bytes < 1e18) {
            Some(bytes) => Ok(Self(bytes as usize)),
            None => Err(format!("`{text}` is no size; write it as 600MB or 1.5GiB")),
        }
    }
}

impl fmt::Display for ByteSize {
    /// In MiB, as all memory is told.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.0} MiB", self.0 as f64 / f64::from(1 << 20))
    }
}

/// What may be a number or a string in a recipe.
pub(crate) fn from_text_or_number<'de, D: Deserializer<'de>, T: FromStr<Err = String>>(
    deserializer: D,
) -> std::result::Result<T, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a string or a whole number")]
    enum TextOrNumber {
        Text(String),
        Number(u64),
    }
    let text = match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    };
    text.parse().map_err(serde::de::Error::custom)
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        from_text_or_number(deserializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let bytes = |text: &str| text.parse::<ByteSize>().map(|size| size.0);
        assert_eq!(bytes("600MB"), Ok(600_000_000));
        assert_eq!(bytes("1.5 GiB"), Ok(3 << 29));
        assert_eq!(bytes("2g"), Ok(2_000_000_000));
        assert_eq!(bytes("64 kib"), Ok(65_536));
        assert_eq!(bytes("123456"), Ok(123_456));
        for wrong in ["", "GB", "-1GB", "1 TB x", "nan", "inf", "0", "1e30"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}

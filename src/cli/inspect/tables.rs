//! Numbers and tables as people read them.

use graftling::terminal;

/// The cells of one line.
pub(super) fn row<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(str::to_owned).to_vec()
}

/// A table whose first column is aligned left and the others right, with an empty line before it.
pub(super) fn aligned(rows: &[Vec<String>]) -> String {
    let mut rows = rows.to_vec();
    // The names below the head are indented.
    for (index, name) in rows.iter_mut().filter_map(|row| row.first_mut()).enumerate() {
        *name = if index == 0 { format!("{name}  ") } else { format!("  {name}") };
    }
    format!("\n{}", terminal::aligned(&rows))
}

/// `134515008` as `134,515,008`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// Bytes in the largest binary unit that leaves at least 1.
pub(super) fn binary_size(bytes: u64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let power = (0..units.len() - 1).rev().find(|&power| bytes >> (10 * (power + 1)) > 0).map_or(0, |power| power + 1);
    if power == 0 {
        format!("{bytes} bytes")
    } else {
        format!("{:.1} {}", bytes as f64 / f64::powi(1024.0, power as i32), units[power])
    }
}

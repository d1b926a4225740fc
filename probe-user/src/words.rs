//! Numbers and words as one reads them.

pub const SPANS: [&str; 2] = ["span", "spans"];

/// A number of things, by their name for one and for many.
pub fn counted(number: u64, [one, many]: [&str; 2]) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// A part of all, as one reads it.
pub fn percent(part: u64, all: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let percent = part as f64 * 100.0 / all.max(1) as f64;
    format!("{percent:.1}%")
}

/// Without what would command the terminal: names, paths and messages are what strangers chose.
pub fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

//! Numbers as one reads them.

pub(super) const SPANS: [&str; 2] = ["span", "spans"];

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

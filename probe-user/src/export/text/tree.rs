//! A trace as lines: spans in a tree, each with a bar that shows when it was within the trace.

use std::{
    collections::{BTreeSet, HashMap},
    fmt::Write,
};

use super::TextSettings;
use crate::{
    trace::{
        segment::Segment,
        span::{Span, SpanKind},
    },
    words::printable,
};

/// Lines that one trace may take.
const LINES_MAX: usize = 200;
/// Levels that are drawn; deeper ones stay at this indent.
const DEPTH_MAX: usize = 12;
const SERVICE_MAX: usize = 18;
const BAR_WIDTH: usize = 20;
/// What a bar may shrink to before a span's own words are cut.
const BAR_WIDTH_MIN: usize = 6;
/// Columns that a span's words keep however narrow the terminal is.
const WHAT_WIDTH_MIN: usize = 20;
/// Columns of a status of HTTP; those of gRPC are words.
const STATUS_WIDTH_MIN: usize = 3;
/// The duration, and the spaces around it and the status: ` … 123.4 ms `.
const NUMBERS_WIDTH: usize = 11;

const RED: &str = "\x1b[31m";
const BOLD: &str = "\x1b[1m";
const DIM: &str = "\x1b[2m";
const PLAIN: &str = "\x1b[0m";

/// One span in its place.
struct Node<'a> {
    segment: &'a Segment,
    span: &'a Span,
    children: Vec<usize>,
}

/// Draws the segments of a trace.
pub(super) fn draw(segments: &[Segment], is_continued: bool, settings: TextSettings) -> String {
    let (nodes, roots) = grow(segments);
    let spans = nodes.iter().map(|node| node.span);
    let start_ns = spans.clone().map(|span| span.start_ns).min().unwrap_or_default();
    let end_ns = spans.map(|span| span.end_ns).max().unwrap_or_default();
    let services: BTreeSet<_> = segments
        .iter()
        .map(|segment| segment.identity.service.as_str())
        .collect();
    let service_width = services
        .iter()
        .map(|service| service.chars().count())
        .max()
        .unwrap_or_default();
    let service_width = service_width.min(SERVICE_MAX);
    let rows = rows(&nodes, roots);
    let widest = rows.iter().map(|row| row.what.chars().count()).max();
    let status_width = rows
        .iter()
        .map(|row| status(row.node.span).chars().count())
        .max()
        .unwrap_or_default()
        .max(STATUS_WIDTH_MIN);
    let taken = service_width + status_width;
    let (what_width, bar_width) = widths(settings.width, taken, widest.unwrap_or_default());
    let page = Page {
        settings,
        start_ns,
        end_ns,
        service_width,
        what_width,
        status_width,
        bar_width,
    };

    let mut text = String::new();
    let trace_id = segments
        .first()
        .map(|segment| segment.trace_id.as_str())
        .unwrap_or_default();
    page.header(trace_id, services.len(), nodes.len(), is_continued, &mut text);
    for row in &rows {
        page.span(row, &mut text);
    }
    if nodes.len() > rows.len() {
        let _ = writeln!(text, "  and {} more spans", nodes.len() - rows.len());
    }
    text.push('\n');
    text
}

/// A span's line before it is fitted in.
struct Row<'a> {
    node: &'a Node<'a>,
    what: String,
    /// What stands to the left of the lines below it.
    below: String,
}

/// The lines of the trees, depth first, as many as are drawn.
fn rows<'a>(nodes: &'a [Node<'a>], roots: Vec<usize>) -> Vec<Row<'a>> {
    // On the stack: a node, whether it is the last of its siblings, and the indent of its line.
    let mut stack: Vec<_> = roots
        .into_iter()
        .rev()
        .map(|root| (root, Branch::Root, String::new()))
        .collect();
    let mut rows = Vec::new();
    while let Some((at, branch, indent)) = stack.pop() {
        let Some(node) = nodes.get(at) else { continue };
        if rows.len() == LINES_MAX {
            break;
        }
        let what = format!("{indent}{}{}", branch.sign(), printable(&words(node.span)));
        let left = format!("{indent}{}", branch.below());
        let below = if indent.chars().count() < 3 * DEPTH_MAX {
            left.clone()
        } else {
            indent
        };
        for (position, child) in node.children.iter().enumerate().rev() {
            let branch = if position + 1 == node.children.len() {
                Branch::Last
            } else {
                Branch::Middle
            };
            stack.push((*child, branch, below.clone()));
        }
        rows.push(Row {
            node,
            what,
            below: left,
        });
    }
    rows
}

fn words(span: &Span) -> String {
    match span.kind {
        SpanKind::Entry => format!("entry {}", span.operation),
        SpanKind::Exit => format!("exit {} to {}", span.operation, span.peer),
        SpanKind::Local => format!("local {}", span.operation),
    }
}

/// How it ended, as its protocol says it.
fn status(span: &Span) -> &str {
    let told = span
        .tag("http.status_code")
        .or_else(|| span.tag("rpc.status_code"));
    match told {
        Some(status) => status,
        None if span.is_error => "err",
        None => "-",
    }
}

/// Columns for the tree with its words, and for the bars, which make room for them first. `taken` are those of service
/// and status.
fn widths(width: usize, taken: usize, widest: usize) -> (usize, usize) {
    let both = width.saturating_sub(taken + 4 + NUMBERS_WIDTH);
    let what_width = widest
        .max(both.saturating_sub(BAR_WIDTH))
        .min(both.saturating_sub(BAR_WIDTH_MIN))
        .max(WHAT_WIDTH_MIN);
    let bar_width = both.saturating_sub(what_width).clamp(BAR_WIDTH_MIN, BAR_WIDTH);
    (what_width, bar_width)
}

/// Joins spans to their parents: within the segment by the span's id, else by the first reference that leads
/// anywhere. Returns the nodes and those without a parent, in the order of their time.
fn grow(segments: &[Segment]) -> (Vec<Node<'_>>, Vec<usize>) {
    let mut nodes = Vec::new();
    let mut places = HashMap::new();
    for segment in segments {
        for span in &segment.spans {
            places
                .entry((segment.segment_id.as_str(), span.id))
                .or_insert(nodes.len());
            nodes.push(Node {
                segment,
                span,
                children: Vec::new(),
            });
        }
    }
    let parent = |node: &Node<'_>| {
        let of_segment = |segment_id, span_id| places.get(&(segment_id, span_id)).copied();
        if node.span.parent_id >= 0 {
            return of_segment(node.segment.segment_id.as_str(), node.span.parent_id);
        }
        let mut references = node.span.references.iter();
        references
            .find_map(|reference| of_segment(reference.parent_segment_id.as_str(), reference.parent_span_id))
    };
    let mut parents: Vec<Option<usize>> = nodes.iter().map(parent).collect();
    // References are what strangers sent: they may lead in a circle, which would have no root.
    for at in 0..parents.len() {
        let mut above = parents.get(at).copied().flatten();
        let mut steps = 0;
        while let Some(place) = above {
            steps += 1;
            if place == at || steps > parents.len() {
                if let Some(parent) = parents.get_mut(at) {
                    *parent = None;
                }
                break;
            }
            above = parents.get(place).copied().flatten();
        }
    }
    let mut order: Vec<usize> = (0..nodes.len()).collect();
    order.sort_by_key(|at| nodes.get(*at).map(|node| (node.span.start_ns, node.span.id)));
    let mut roots = Vec::new();
    for at in order {
        match parents
            .get(at)
            .copied()
            .flatten()
            .and_then(|parent| nodes.get_mut(parent))
        {
            Some(parent) => parent.children.push(at),
            None => roots.push(at),
        }
    }
    (nodes, roots)
}

/// Where a line hangs.
#[derive(Clone, Copy)]
enum Branch {
    Root,
    Middle,
    Last,
}

impl Branch {
    const fn sign(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Middle => "├─ ",
            Self::Last => "└─ ",
        }
    }

    /// What stands in its place on the lines below.
    const fn below(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Middle => "│  ",
            Self::Last => "   ",
        }
    }
}

/// What all lines of a trace share.
struct Page {
    settings: TextSettings,
    start_ns: u64,
    end_ns: u64,
    service_width: usize,
    what_width: usize,
    status_width: usize,
    bar_width: usize,
}

impl Page {
    fn header(&self, trace_id: &str, services: usize, spans: usize, is_continued: bool, text: &mut String) {
        let continued = if is_continued { " (continued)" } else { "" };
        let facts = format!(
            "{}, {}, {}, {}",
            clock_time(self.start_ns),
            counted(services, "service"),
            counted(spans, "span"),
            duration(self.end_ns - self.start_ns),
        );
        let (bold, dim, plain) = if self.settings.colour {
            (BOLD, DIM, PLAIN)
        } else {
            ("", "", "")
        };
        let _ = writeln!(
            text,
            "{bold}trace {}{continued}{plain}  {dim}{facts}{plain}",
            printable(trace_id)
        );
    }

    fn span(&self, row: &Row<'_>, text: &mut String) {
        let Row { node, what, below } = row;
        let span = node.span;
        let mark = if span.is_error { '✗' } else { ' ' };
        let service = fit(&printable(&node.segment.identity.service), self.service_width);
        let line = format!(
            "{mark} {service}  {} {:>status_width$} {:>8} {}",
            fit(what, self.what_width),
            status(span),
            duration(span.end_ns.saturating_sub(span.start_ns)),
            self.bar(span),
            status_width = self.status_width,
        );
        self.line(line.trim_end(), span.is_error, text);
        // The line above may have no room for whom the call was meant for.
        let is_cut = what.chars().count() > self.what_width;
        let whom = if is_cut && !span.peer.is_empty() {
            format!("{}: ", span.peer)
        } else {
            String::new()
        };
        for log in &span.logs {
            let value = |key| {
                log.data
                    .iter()
                    .find(|(each, _)| *each == key)
                    .map(|(_, value)| value.as_str())
            };
            let Some(message) = value("message") else { continue };
            let kind = value("error.kind")
                .map(|kind| format!(" ({kind})"))
                .unwrap_or_default();
            let note = printable(&format!("{whom}{message}{kind}"));
            let room = self
                .settings
                .width
                .saturating_sub(4 + self.service_width + below.chars().count() + 3);
            let line = format!(
                "{mark} {:1$}  {below}   {2}",
                "",
                self.service_width,
                fit(&note, room)
            );
            self.line(line.trim_end(), span.is_error, text);
        }
    }

    fn line(&self, line: &str, is_error: bool, text: &mut String) {
        if self.settings.colour && is_error {
            let _ = writeln!(text, "{RED}{line}{PLAIN}");
        } else {
            let _ = writeln!(text, "{line}");
        }
    }

    fn bar(&self, span: &Span) -> String {
        let total_ns = u128::from(self.end_ns - self.start_ns).max(1);
        let column = |time_ns: u64| {
            let since_ns = u128::from(time_ns.saturating_sub(self.start_ns));
            (since_ns * self.bar_width as u128 / total_ns) as usize
        };
        let from = column(span.start_ns).min(self.bar_width - 1);
        let to = column(span.end_ns).clamp(from + 1, self.bar_width);
        format!("{}{}", " ".repeat(from), "━".repeat(to - from))
    }
}

/// Exactly `width` columns: cut with a sign, or filled up.
fn fit(text: &str, width: usize) -> String {
    let columns = text.chars().count();
    if columns <= width {
        return format!("{text:width$}");
    }
    let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

fn counted(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// At most eight columns.
fn duration(duration_ns: u64) -> String {
    const MICROSECOND: u64 = 1_000;
    const MILLISECOND: u64 = 1_000_000;
    const SECOND: u64 = 1_000_000_000;
    let decimals = |unit: u64, places: usize, name: &str| {
        format!("{:.places$} {name}", duration_ns as f64 / unit as f64)
    };
    if duration_ns < MILLISECOND {
        format!("{} µs", duration_ns / MICROSECOND)
    } else if duration_ns < 100 * MILLISECOND {
        decimals(MILLISECOND, 1, "ms")
    } else if duration_ns < SECOND {
        format!("{} ms", duration_ns / MILLISECOND)
    } else if duration_ns < 100 * SECOND {
        decimals(SECOND, 2, "s")
    } else {
        format!("{} s", duration_ns / SECOND)
    }
}

/// The time of day in UTC: the order of traces in a log, not a calendar.
fn clock_time(time_ns: u64) -> String {
    let day_ms = time_ns / 1_000_000 % 86_400_000;
    let (seconds, ms) = (day_ms / 1_000, day_ms % 1_000);
    format!(
        "{:02}:{:02}:{:02}.{ms:03} UTC",
        seconds / 3_600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_take_eight_columns() {
        let expected = [
            (0, "0 µs"),
            (999_999, "999 µs"),
            (1_000_000, "1.0 ms"),
            (12_345_678, "12.3 ms"),
            (345_678_901, "345 ms"),
            (1_234_567_890, "1.23 s"),
            (99_994_000_000, "99.99 s"),
            (123_456_000_000, "123 s"),
            (9_999_999_000_000_000, "9999999 s"),
        ];
        for (duration_ns, text) in expected {
            assert_eq!(duration(duration_ns), text);
        }
    }

    #[test]
    fn the_time_of_day() {
        assert_eq!(clock_time(1_700_000_000_123_456_789), "22:13:20.123 UTC");
    }

    #[test]
    fn text_fits() {
        assert_eq!(fit("abc", 5), "abc  ");
        assert_eq!(fit("abcdef", 5), "abcd…");
        assert_eq!(fit("ü", 2), "ü ");
        assert_eq!(printable("a\x1b[31mb\n"), "a\u{fffd}[31mb\u{fffd}");
    }
}

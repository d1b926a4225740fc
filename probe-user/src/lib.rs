//! skyprobe: traces unmodified programs by eBPF and reports them to Apache SkyWalking.
//!
//! ```text
//! SHELL    kernel::ring   bytes          kernel::loss   counters
//!             │
//! PURE     event::decode  bytes → Event
//!          trace::Tracer  Event → Segment (Entry, Exit and Local spans, references)
//!             │
//! SHELL    export ──▶ text | json | skywalking
//!
//! sideways: discover (Target) → instrument (Instrumentation, offsets) → kernel::attach, kernel::enrol
//! ```

pub mod app;
pub mod check;
pub mod clock;
pub mod config;
pub mod discover;
pub mod doctor;
pub mod event;
pub mod export;
pub mod http;
pub mod inspect;
pub mod instrument;
pub mod kernel;
pub mod kubernetes;
pub mod naming;
pub mod requests;
pub mod status;
pub mod telemetry;
pub mod trace;
pub mod version;
pub mod words;

/// An error with its causes in one line, for logs and for the user. Of the verifier's log, which the kernel's refusal
/// of a program carries along, that is the last line: it says what was wrong.
fn chain(error: &dyn std::error::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        // Some errors repeat their cause in their own words.
        if !words.contains(text.as_str()) {
            words = format!("{words}: {text}");
        }
        cause = error.source();
    }
    let mut lines = words.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default().to_owned();
    match lines.rfind(|line| !line.starts_with("processed ") && !line.starts_with("verification time")) {
        Some(last) => format!("{first} ... {last}"),
        None => first,
    }
}

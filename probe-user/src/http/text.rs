//! The two forms that metrics are written in: Prometheus' text, and OpenMetrics, which has examples.

use std::fmt::{Display, Write as _};

use hyper::{
    HeaderMap,
    header::{ACCEPT, HeaderValue},
};

use crate::requests::Example;

/// How metrics are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What Prometheus has read since its version 0.4.
    Prometheus,
    OpenMetrics,
}

impl Form {
    const OPEN: &str = "application/openmetrics-text";

    /// OpenMetrics for whoever names it; else what all can read.
    pub(super) fn asked_for(headers: &HeaderMap) -> Self {
        let mut accepted = headers
            .get_all(ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok());
        let is_open = accepted.any(|value| value.split(',').any(|each| each.trim().starts_with(Self::OPEN)));
        if is_open {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    pub(super) fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        })
    }
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Metrics in the order in which they are told.
pub(super) struct Text {
    text: String,
    form: Form,
}

impl Text {
    pub(super) fn new(form: Form) -> Self {
        Self {
            text: String::with_capacity(16 * 1024),
            form,
        }
    }

    /// Begins a metric. The name of a counter ends in `_total`.
    pub(super) fn metric(&mut self, name: &str, kind: Kind, help: &str) {
        let (kind, family) = match (kind, self.form) {
            // OpenMetrics has the ending at each line, and not in the name of all.
            (Kind::Counter, Form::OpenMetrics) => ("counter", name.strip_suffix("_total").unwrap_or(name)),
            (Kind::Counter, Form::Prometheus) => ("counter", name),
            (Kind::Gauge, _) => ("gauge", name),
            (Kind::Histogram, _) => ("histogram", name),
        };
        let _infallible = write!(self.text, "# HELP {family} {help}\n# TYPE {family} {kind}\n");
    }

    /// A line of it. What of the labels is not our own words went through [`escaped`].
    pub(super) fn line(&mut self, name: &str, labels: &str, value: impl Display) {
        self.line_with(name, labels, value, None);
    }

    /// The same with an example, which only OpenMetrics has.
    pub(super) fn line_with(
        &mut self,
        name: &str,
        labels: &str,
        value: impl Display,
        example: Option<&Example>,
    ) {
        let _infallible = if labels.is_empty() {
            write!(self.text, "{name} {value}")
        } else {
            write!(self.text, "{name}{{{labels}}} {value}")
        };
        if let (Some(example), Form::OpenMetrics) = (example, self.form) {
            let Example {
                trace_id,
                duration_ns,
                at_ns,
            } = example;
            let _infallible = write!(
                self.text,
                " # {{trace_id=\"{}\"}} {} {}",
                escaped(trace_id),
                Seconds(*duration_ns),
                Seconds(*at_ns)
            );
        }
        self.text.push('\n');
    }

    pub(super) fn finish(mut self) -> String {
        if self.form == Form::OpenMetrics {
            self.text.push_str("# EOF\n");
        }
        self.text
    }
}

/// Nanoseconds, written as seconds.
pub(super) struct Seconds(pub(super) u64);

impl Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, ns) = (self.0 / 1_000_000_000, self.0 % 1_000_000_000);
        if ns == 0 {
            return write!(f, "{seconds}.0");
        }
        let text = format!("{seconds}.{ns:09}");
        f.write_str(text.trim_end_matches('0'))
    }
}

/// The value of a label, whoever has chosen it.
pub(super) fn escaped(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        match character {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            character => text.push(character),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_names_openmetrics_gets_it() {
        let form = |accept: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
            Form::asked_for(&headers)
        };
        // What Prometheus 3 asks with.
        let prometheus = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;\
                          version=1.0.0;q=0.5,*/*;q=0.2";
        assert_eq!(form(prometheus), Form::OpenMetrics);
        assert_eq!(form("text/plain"), Form::Prometheus);
        assert_eq!(Form::asked_for(&HeaderMap::new()), Form::Prometheus);
    }

    #[test]
    fn seconds_and_labels() {
        let seconds = [0, 5_000_000, 2_500_000_000, 10_000_000_000, 1].map(|ns| Seconds(ns).to_string());
        assert_eq!(seconds, ["0.0", "0.005", "2.5", "10.0", "0.000000001"]);
        assert_eq!(escaped("a\"b\\c\nd"), r#"a\"b\\c\nd"#);
    }

    #[test]
    fn a_counter_in_both_forms() {
        let example = Example {
            trace_id: "abc".into(),
            duration_ns: 1_500_000,
            at_ns: 1_700_000_000_250_000_000,
        };
        let text = |form| {
            let mut text = Text::new(form);
            text.metric("x_total", Kind::Counter, "What.");
            text.line_with("x_total", "a=\"b\"", 3, Some(&example));
            text.finish()
        };
        assert_eq!(
            text(Form::Prometheus),
            "# HELP x_total What.\n# TYPE x_total counter\nx_total{a=\"b\"} 3\n"
        );
        assert_eq!(
            text(Form::OpenMetrics),
            "# HELP x What.\n# TYPE x counter\nx_total{a=\"b\"} 3 # {trace_id=\"abc\"} 0.0015 1700000000.25\n# EOF\n"
        );
    }
}

//! Segments as `--export json` prints them, read by the names of the protobuf JSON form.

use serde::{Deserialize, Deserializer};

/// One line of standard output.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Segment {
    pub trace_id: String,
    pub trace_segment_id: String,
    pub spans: Vec<Span>,
    pub service: String,
    pub service_instance: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Span {
    pub span_id: i32,
    pub parent_span_id: i32,
    /// Milliseconds since 1970, as OAP wants them.
    #[serde(deserialize_with = "int64")]
    pub start_time: i64,
    #[serde(deserialize_with = "int64")]
    pub end_time: i64,
    pub refs: Vec<Reference>,
    pub operation_name: String,
    pub peer: String,
    pub span_type: String,
    pub span_layer: String,
    pub component_id: i32,
    pub is_error: bool,
    pub tags: Vec<Pair>,
    pub logs: Vec<Log>,
    pub skip_analysis: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Reference {
    pub ref_type: String,
    pub trace_id: String,
    pub parent_trace_segment_id: String,
    pub parent_span_id: i32,
    pub parent_service: String,
    pub parent_service_instance: String,
    pub parent_endpoint: String,
    pub network_address_used_at_peer: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Pair {
    pub key: String,
    pub value: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Log {
    #[serde(deserialize_with = "int64")]
    pub time: i64,
    pub data: Vec<Pair>,
}

/// The protobuf JSON form writes 64-bit numbers as strings; a plain number is understood too.
fn int64<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Form {
        Number(i64),
        Text(String),
    }
    match Form::deserialize(deserializer)? {
        Form::Number(number) => Ok(number),
        Form::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

impl Span {
    /// The value of the tag `key`.
    pub fn tag(&self, key: &str) -> Option<&str> {
        value(&self.tags, key)
    }

    /// Host and path of the tag `url`, whose scheme may be there or not.
    pub fn address(&self) -> Option<&str> {
        let url = self.tag("url")?;
        Some(url.split_once("://").map_or(url, |(_, address)| address))
    }

    /// The path of the tag `url`.
    pub fn path(&self) -> Option<&str> {
        let address = self.address()?;
        address.get(address.find('/')?..)
    }

    /// The value of `key` in any of the logs.
    pub fn log(&self, key: &str) -> Option<&str> {
        self.logs.iter().find_map(|log| value(&log.data, key))
    }

    /// All tags and logs in small letters, a pair a line.
    pub fn words(&self) -> String {
        let pairs = self.tags.iter().chain(self.logs.iter().flat_map(|log| &log.data));
        pairs
            .map(|pair| format!("{}={}\n", pair.key, pair.value))
            .collect::<String>()
            .to_lowercase()
    }

    pub fn is_entry(&self) -> bool {
        self.span_type == "Entry"
    }

    pub fn is_exit(&self) -> bool {
        self.span_type == "Exit"
    }
}

fn value<'p>(pairs: &'p [Pair], key: &str) -> Option<&'p str> {
    pairs
        .iter()
        .find(|pair| pair.key == key)
        .map(|pair| pair.value.as_str())
}

impl Segment {
    pub fn span(&self, id: i32) -> Option<&Span> {
        self.spans.iter().find(|span| span.span_id == id)
    }

    pub fn entry(&self) -> Option<&Span> {
        self.spans.iter().find(|span| span.is_entry())
    }

    pub fn exits(&self) -> impl Iterator<Item = &Span> {
        self.spans.iter().filter(|span| span.is_exit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_numbers_as_text_and_leaves_out_defaults() {
        let line = r#"{"traceId":"t","traceSegmentId":"s","service":"shop","serviceInstance":"i",
            "spans":[{"parentSpanId":-1,"startTime":"1700000000123","endTime":1700000000124,"spanType":"Entry",
            "tags":[{"key":"url","value":"h/p"}],"logs":[{"time":"5","data":[{"key":"event","value":"error"}]}]}]}"#;
        let segment: Segment = serde_json::from_str(line).unwrap();
        let span = segment.entry().unwrap();
        assert_eq!((span.span_id, span.parent_span_id), (0, -1));
        assert_eq!(
            (span.start_time, span.end_time),
            (1_700_000_000_123, 1_700_000_000_124)
        );
        assert_eq!((span.tag("url"), span.tag("none")), (Some("h/p"), None));
        assert_eq!(span.log("event"), Some("error"));
    }
}

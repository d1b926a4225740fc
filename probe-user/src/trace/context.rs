//! Trace contexts as requests bring them: `sw8` taken apart, and what `sw8-x` asks for.

use std::borrow::Cow;

use base64::{
    Engine,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use probe_common::limits::{SW8_MAX, TRACE_ID_BASE64_MAX};

/// Lenient about the bits that the last character has beyond the last byte: the kernel side does not look at
/// them, and what it continues must be understood here.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::RequireCanonical),
);

/// Digits of the largest span id.
const SPAN_ID_DIGITS: usize = 10;

/// An incoming `sw8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sw8 {
    /// The caller's wish that the trace be kept. Agents send `true` and heed nothing else.
    pub sample: bool,
    pub trace_id: String,
    pub parent_segment_id: String,
    pub parent_span_id: i32,
    pub parent_service: String,
    pub parent_instance: String,
    pub parent_endpoint: String,
    pub network_address: String,
}

impl Sw8 {
    /// Understands what `probe_common::context::sw8::scan` accepts, and nothing else. Of text that is not UTF-8
    /// it keeps what can be read.
    pub fn decode(value: &[u8]) -> Option<Self> {
        if value.len() > SW8_MAX {
            return None;
        }
        let mut decoded = [0; SW8_MAX];
        let mut text = |base64| text(base64, &mut decoded);
        let mut fields = value.split(|byte| *byte == b'-');
        let mut field = || fields.next();
        let sample = match field()? {
            b"0" => false,
            b"1" => true,
            _ => return None,
        };
        let trace_id = field().filter(|field| field.len() <= TRACE_ID_BASE64_MAX)?;
        let sw8 = Self {
            sample,
            trace_id: text(trace_id)?,
            parent_segment_id: text(field()?)?,
            parent_span_id: number(field()?)?,
            parent_service: text(field()?)?,
            parent_instance: text(field()?)?,
            parent_endpoint: text(field()?)?,
            network_address: text(field()?)?,
        };
        field().is_none().then_some(sw8)
    }
}

/// By way of `decoded`: a string of its own for each field would be cleared before it is written.
fn text(base64: &[u8], decoded: &mut [u8; SW8_MAX]) -> Option<String> {
    let len = BASE64.decode_slice(base64, decoded).ok().filter(|len| *len > 0)?;
    decoded.get(..len).map(|bytes| lossy(bytes).into_owned())
}

fn number(digits: &[u8]) -> Option<i32> {
    if digits.len() > SPAN_ID_DIGITS || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(digits).ok()?.parse().ok()
}

/// Bytes as text, with a sign for what cannot be read.
pub(crate) fn lossy(bytes: &[u8]) -> Cow<'_, str> {
    // Nearly all of it is ASCII, which this check takes many bytes at a time.
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// An incoming `sw8-x`: a mode and when the request was sent, either of which may be empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sw8X {
    /// All spans are to be left out of OAP's analysis.
    pub skip_analysis: bool,
    /// When the client sent the request, by its own clock: milliseconds since 1970.
    pub sent_at_ms: Option<u64>,
}

impl Sw8X {
    /// Total: what is not understood is not there.
    pub fn decode(value: &[u8]) -> Self {
        let mut fields = value.splitn(2, |byte| *byte == b'-').map(<[u8]>::trim_ascii);
        Self {
            skip_analysis: fields.next() == Some(b"1"),
            sent_at_ms: fields
                .next()
                .and_then(|field| str::from_utf8(field).ok())
                .and_then(|field| field.parse().ok())
                .filter(|sent_at_ms| *sent_at_ms > 0),
        }
    }
}

#[cfg(test)]
mod tests {
    use probe_common::{
        context::sw8::{Sw8Places, scan},
        limits::SW8_MAX,
    };

    use super::*;

    const REAL: &str =
        "1-VFJBQ0U=-U0VHTUVOVA==-3-c2hvcA==-c2hvcEBob3N0-R0VUOi9vcmRlcg==-MTI3LjAuMC4xOjgwODA=";

    #[test]
    fn a_real_value() {
        assert_eq!(
            Sw8::decode(REAL.as_bytes()),
            Some(Sw8 {
                sample: true,
                trace_id: "TRACE".into(),
                parent_segment_id: "SEGMENT".into(),
                parent_span_id: 3,
                parent_service: "shop".into(),
                parent_instance: "shop@host".into(),
                parent_endpoint: "GET:/order".into(),
                network_address: "127.0.0.1:8080".into(),
            })
        );
    }

    #[test]
    fn what_is_not_utf_8_is_kept_as_far_as_it_can_be_read() {
        let value = REAL.replace("c2hvcA==", "c2j/cA==");
        assert_eq!(
            Sw8::decode(value.as_bytes()).unwrap().parent_service,
            "sh\u{fffd}p"
        );
    }

    /// The kernel side continues a trace if the scanner accepts: the decoder has to agree, on anything.
    #[test]
    fn scanner_and_decoder_agree() {
        let mut seed = 0x2545_f491_4f6c_dd1du64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed >> 33
        };
        const BYTES: &[u8] = b"--01289Aaz+/==_ \xff";
        let mut accepted = 0;
        for round in 0..50_000 {
            let mut value = REAL.as_bytes().to_vec();
            if round % 50 == 0 {
                // Long fields, around the bounds.
                let long = "abcd".repeat(random() as usize % 60);
                let field = 1 + random() as usize % 7;
                let mut fields: Vec<&str> = REAL.split('-').collect();
                fields[field] = &long;
                value = fields.join("-").into_bytes();
            }
            for _ in 0..random() % 4 {
                let at = random() as usize % value.len();
                let byte = BYTES[random() as usize % BYTES.len()];
                match random() % 3 {
                    0 => value[at] = byte,
                    1 => value.insert(at, byte),
                    _ => drop(value.remove(at)),
                }
            }
            let mut buffer = [0; SW8_MAX];
            let len = value.len().min(SW8_MAX);
            buffer[..len].copy_from_slice(&value[..len]);
            let scanned = scan(&buffer, value.len() as u32, &mut Sw8Places::default());
            let decoded = Sw8::decode(&value);
            assert_eq!(
                scanned,
                decoded.is_some(),
                "{:?}",
                String::from_utf8_lossy(&value)
            );
            accepted += usize::from(scanned);
        }
        assert!(
            (5_000..45_000).contains(&accepted),
            "{accepted} of 50000: both answers must be tried"
        );
    }

    #[test]
    fn sw8_x() {
        let decoded = |value: &str| {
            let Sw8X {
                skip_analysis,
                sent_at_ms,
            } = Sw8X::decode(value.as_bytes());
            (skip_analysis, sent_at_ms)
        };
        assert_eq!(decoded(""), (false, None));
        assert_eq!(decoded("0- "), (false, None));
        assert_eq!(decoded("1- "), (true, None));
        assert_eq!(decoded("1"), (true, None));
        assert_eq!(decoded("-1700000000000"), (false, Some(1_700_000_000_000)));
        assert_eq!(decoded("1-1700000000000"), (true, Some(1_700_000_000_000)));
        assert_eq!(decoded("1--5"), (true, None));
        assert_eq!(decoded("x-y-z"), (false, None));
    }
}

//! `traceparent`: the header of the W3C Trace Context, `00-<trace id>-<parent id>-<flags>`.

use crate::{
    array::{load, store},
    hex,
    limits::{TRACEPARENT_BYTES, TRACEPARENT_LEN},
};

/// A value taken apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Traceparent {
    pub trace_id: [u8; 16],
    pub parent_id: [u8; 8],
    pub flags: u8,
    pub version: u8,
    pub _pad: [u8; 6],
}

const _: () = assert!(size_of::<Traceparent>() == 32);

/// The flag of a trace that the caller records.
pub const SAMPLED: u8 = 1;

/// Reads `M` bytes written in hexadecimal. Returns all digits' values or-ed together, low nibble: 0 if all are
/// zero, and [`hex::NO_DIGIT`] if a byte was no digit.
#[inline(always)]
fn decode<const M: usize>(value: &[u8; TRACEPARENT_BYTES], from: usize, out: &mut [u8; M]) -> u8 {
    let mut seen = 0;
    for at in 0..M {
        let high = load(&hex::VALUES, load(value, from + 2 * at) as usize);
        let low = load(&hex::VALUES, load(value, from + 2 * at + 1) as usize);
        store(out, at, high << 4 | (low & 15));
        seen |= high | low;
    }
    seen
}

/// Takes a value apart; returns whether it is well-formed. `len` is the length of the whole header value, of
/// which `value` may hold only the beginning.
///
/// A later version may have more parts: they are not looked at, as the standard wants it.
#[inline(never)]
pub fn parse(value: &[u8; TRACEPARENT_BYTES], len: u32, out: &mut Traceparent) -> bool {
    let mut version = [0; 1];
    let mut flags = [0; 1];
    let digits = decode(value, 0, &mut version) | decode(value, 53, &mut flags);
    let trace_id = decode(value, 3, &mut out.trace_id);
    let parent_id = decode(value, 36, &mut out.parent_id);
    let dashes = (load(value, 2) == b'-') & (load(value, 35) == b'-') & (load(value, 52) == b'-');
    let [version] = version;
    [out.flags] = flags;
    out.version = version;
    if (digits | trace_id | parent_id) & hex::NO_DIGIT != 0 || !dashes {
        return false;
    }
    if trace_id == 0 || parent_id == 0 || version == 0xff {
        return false;
    }
    let len = len as usize;
    len == TRACEPARENT_LEN || (version != 0 && len > TRACEPARENT_LEN && load(value, TRACEPARENT_LEN) == b'-')
}

/// Writes a value of version 00 to the place `at` and returns the place after it.
#[inline(always)]
pub fn write<const M: usize>(
    trace_id: &[u8; 16],
    parent_id: &[u8; 8],
    flags: u8,
    out: &mut [u8; M],
    at: u32,
) -> u32 {
    // One by one: of a loop over so few bytes the compiler makes a copy whose length older verifiers lose.
    for (step, byte) in b"00-".iter().enumerate() {
        store(out, at as usize + step, *byte);
    }
    let at = hex::encode(trace_id, out, at + 3);
    store(out, at as usize, b'-');
    let at = hex::encode(parent_id, out, at + 1);
    store(out, at as usize, b'-');
    hex::encode(&[flags], out, at + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn parsed(value: &str) -> Option<Traceparent> {
        let mut buffer = [b'0'; TRACEPARENT_BYTES];
        let len = value.len().min(TRACEPARENT_BYTES);
        buffer[..len].copy_from_slice(&value.as_bytes()[..len]);
        let mut out = Traceparent::default();
        parse(&buffer, value.len() as u32, &mut out).then_some(out)
    }

    #[test]
    fn a_real_value_is_taken_apart() {
        let traceparent = parsed(REAL).unwrap();
        assert_eq!(traceparent.trace_id[..4], [0x0a, 0xf7, 0x65, 0x19]);
        assert_eq!(traceparent.trace_id[15], 0x9c);
        assert_eq!(
            traceparent.parent_id,
            [0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]
        );
        assert_eq!((traceparent.version, traceparent.flags), (0, SAMPLED));
    }

    #[test]
    fn every_byte_is_looked_at() {
        for at in 0..REAL.len() {
            for wrong in ["g", "A", " ", "\0"] {
                let mut value = REAL.to_owned();
                value.replace_range(at..=at, wrong);
                assert_eq!(parsed(&value), None, "{value:?}");
            }
        }
    }

    #[test]
    fn ids_of_zeroes_are_refused() {
        assert_eq!(
            parsed(&format!("00-{}-b7ad6b7169203331-01", "0".repeat(32))),
            None
        );
        assert_eq!(
            parsed(&format!(
                "00-0af7651916cd43dd8448eb211c80319c-{}-01",
                "0".repeat(16)
            )),
            None
        );
    }

    #[test]
    fn versions() {
        assert_eq!(parsed(&format!("ff{}", &REAL[2..])), None);
        assert_eq!(parsed(&format!("cc{}", &REAL[2..])).unwrap().version, 0xcc);
        assert!(parsed(&format!("01{}-more", &REAL[2..])).is_some());
        assert!(parsed(&format!("01{}-{}", &REAL[2..], "much more".repeat(20))).is_some());
        assert_eq!(parsed(&format!("01{}.more", &REAL[2..])), None);
        assert_eq!(
            parsed(&format!("{REAL}-more")),
            None,
            "version 00 has no more parts"
        );
    }

    #[test]
    fn lengths() {
        for len in 0..REAL.len() {
            assert_eq!(parsed(&REAL[..len]), None);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let traceparent = parsed(REAL).unwrap();
        let mut out = [b'.'; 128];
        let end = write(
            &traceparent.trace_id,
            &traceparent.parent_id,
            traceparent.flags,
            &mut out,
            10,
        ) as usize;
        assert_eq!(end, 10 + TRACEPARENT_LEN);
        assert_eq!(std::str::from_utf8(&out[9..=end]).unwrap(), format!(".{REAL}."));
    }
}

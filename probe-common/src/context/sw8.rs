//! `sw8`: the header by which SkyWalking's agents hand a trace on.
//!
//! Eight fields joined by dashes: a sample flag, then in base64 the trace id and the parent's segment id, the
//! parent's span id as a number, then in base64 the parent's service, instance and endpoint, and the address the
//! client used. A value with anything else in it starts a new trace: the agents disagree on what to make of
//! half a header, and a wrong parent is worse than none.

use crate::{
    array::{bound, load, pick},
    limits::{SW8_MAX, TRACE_ID_BASE64_MAX},
};

/// Where the fields of a well-formed value lie. On the kernel side it lives in a map.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sw8Places {
    /// Position of each field's last byte.
    last: [u32; FIELDS],
}

const _: () = assert!(size_of::<Sw8Places>() == 32);

/// Fields of a value.
const FIELDS: usize = 8;
const TRACE_ID: usize = 1;
const SPAN_ID: usize = 3;

// === impl Sw8Places ===

impl Sw8Places {
    /// Nothing found yet.
    pub const NONE: Self = Self { last: [0; FIELDS] };

    /// Where field `N` begins, and its length.
    #[inline(always)]
    fn place<const N: usize>(&self) -> (u32, u32) {
        const { assert!(N > 0 && N < FIELDS) };
        // The field before it, a dash, the field.
        // SAFETY: `N` is within 1..FIELDS. Plain indexing is refused by the lints, `get` leaves a branch.
        let (before, last) = unsafe { (*self.last.get_unchecked(N - 1), *self.last.get_unchecked(N)) };
        let start = before.wrapping_add(2);
        (start, last.wrapping_add(1).wrapping_sub(start))
    }

    /// Where the trace id's base64 begins, and its length: it is handed on as it came.
    #[inline(always)]
    pub fn trace_id(&self) -> (u32, u32) {
        self.place::<TRACE_ID>()
    }

    /// Where the parent's span id begins, and its length.
    #[inline(always)]
    pub fn span_id(&self) -> (u32, u32) {
        self.place::<SPAN_ID>()
    }
}

// === The automaton ===
//
// A state is the field's number and how far the field is; the next state is looked up by state and class of
// byte. Without a branch in its body, the loop costs the verifier one walk.

const CLASS_SAMPLE: u8 = 0;
const CLASS_DIGIT: u8 = 1;
const CLASS_LETTER: u8 = 2;
const CLASS_PADDING: u8 = 3;
const CLASS_DASH: u8 = 4;
const CLASS_OTHER: u8 = 5;

static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [CLASS_OTHER; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte] = match byte as u8 {
                b'0' | b'1' => CLASS_SAMPLE,
                b'2'..=b'9' => CLASS_DIGIT,
                b'A'..=b'Z' | b'a'..=b'z' | b'+' | b'/' => CLASS_LETTER,
                b'=' => CLASS_PADDING,
                b'-' => CLASS_DASH,
                _ => CLASS_OTHER,
            };
        }
        byte += 1;
    }
    table
}

// How far a field is. For base64: the number of characters since a full group.
const EMPTY: u8 = 0;
const ONE: u8 = 1;
const TWO: u8 = 2;
const THREE: u8 = 3;
/// Could end here.
const WHOLE: u8 = 4;
/// The first of two padding characters.
const PADDING: u8 = 5;
/// Could end here and must.
const PADDED: u8 = 6;
/// In the first field, which has no such progress: the value is malformed, whatever comes.
const DEAD: u8 = 7;

static NEXT: [u8; 512] = transitions();

const fn state(field: u8, progress: u8) -> u8 {
    field << 3 | progress
}

const fn transitions() -> [u8; 512] {
    let mut table = [DEAD; 512];
    let mut field = 0;
    while field < FIELDS as u8 {
        let mut progress = EMPTY;
        while progress < DEAD {
            let mut class = CLASS_SAMPLE;
            while class <= CLASS_OTHER {
                #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
                {
                    table[(state(field, progress) as usize) << 3 | class as usize] =
                        next(field, progress, class);
                }
                class += 1;
            }
            progress += 1;
        }
        field += 1;
    }
    table
}

const fn next(field: u8, progress: u8, class: u8) -> u8 {
    if class == CLASS_DASH {
        let may_end = progress == WHOLE || progress == PADDED;
        return if may_end && (field as usize) < FIELDS - 1 {
            state(field + 1, EMPTY)
        } else {
            DEAD
        };
    }
    let is_digit = class == CLASS_SAMPLE || class == CLASS_DIGIT;
    let after = match field as usize {
        0 => {
            if progress == EMPTY && class == CLASS_SAMPLE {
                WHOLE
            } else {
                return DEAD;
            }
        }
        SPAN_ID => {
            if is_digit {
                WHOLE
            } else {
                return DEAD;
            }
        }
        _ => match (progress, class) {
            (TWO, CLASS_PADDING) => PADDING,
            (THREE | PADDING, CLASS_PADDING) => PADDED,
            (EMPTY | WHOLE, CLASS_SAMPLE | CLASS_DIGIT | CLASS_LETTER) => ONE,
            (ONE, CLASS_SAMPLE | CLASS_DIGIT | CLASS_LETTER) => TWO,
            (TWO, CLASS_SAMPLE | CLASS_DIGIT | CLASS_LETTER) => THREE,
            (THREE, CLASS_SAMPLE | CLASS_DIGIT | CLASS_LETTER) => WHOLE,
            _ => return DEAD,
        },
    };
    state(field, after)
}

/// The automaton's state before the first byte.
pub const BEGIN: u32 = state(0, EMPTY) as u32;

/// Bytes that are walked over at once.
pub const PART: u32 = 32;

/// Runs the automaton over at most [`PART`] bytes of the value, from `at` on; notes where fields end, and returns the
/// state from which the next part goes on.
///
/// In parts, since the kernel side has the verifier walk over one part only, wherever it begins.
#[inline(always)]
pub fn walk(value: &[u8; SW8_MAX], at: u32, len: u32, from: u32, places: &mut Sw8Places) -> u32 {
    let left = bound(len.wrapping_sub(at));
    let mut state = from as u8;
    for step in 0..PART {
        if step >= left {
            break;
        }
        let at = at.wrapping_add(step);
        let class = load(&CLASSES, load(value, at as usize) as usize);
        state = pick(&NEXT, (state as usize) << 3 | class as usize);
        // SAFETY: a state is below 64, so its field is below `FIELDS`; the mask says so to the verifier.
        unsafe {
            *places
                .last
                .get_unchecked_mut((state >> 3) as usize & (FIELDS - 1)) = at
        };
    }
    state as u32
}

/// Whether the digits at `start` are a span id: an `i32`.
#[inline(never)]
fn is_span_id(value: &[u8; SW8_MAX], start: u32, len: u32) -> u32 {
    if len == 0 || len > 10 {
        return 0;
    }
    let len = bound(len);
    let mut number = 0u64;
    for step in 0..10 {
        if step >= len {
            break;
        }
        let digit = load(value, (start + step) as usize) & 15;
        number = number * 10 + digit as u64;
    }
    (number <= i32::MAX as u64) as u32
}

/// Whether the value is well-formed over which the automaton has run, part by part, to the state `end`; `places` then
/// says where its fields lie.
///
/// The caller has trimmed the value. User space's decoder accepts what this accepts: the kernel side continues
/// the trace if and only if this says so.
#[inline(always)]
pub fn is_whole(value: &[u8; SW8_MAX], len: u32, end: u32, places: &Sw8Places) -> bool {
    if len as usize > SW8_MAX {
        return false;
    }
    let end = end as u8;
    if end != state(FIELDS as u8 - 1, WHOLE) && end != state(FIELDS as u8 - 1, PADDED) {
        return false;
    }
    let (_, trace_id_len) = places.trace_id();
    let (span_id_start, span_id_len) = places.span_id();
    trace_id_len as usize <= TRACE_ID_BASE64_MAX && is_span_id(value, span_id_start, span_id_len) != 0
}

/// What the kernel side makes of the first `len` bytes.
pub fn scan(value: &[u8; SW8_MAX], len: u32, places: &mut Sw8Places) -> bool {
    let mut state = BEGIN;
    for at in (0..len.min(SW8_MAX as u32)).step_by(PART as usize) {
        state = walk(value, at, len, state, places);
    }
    is_whole(value, len, state, places)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REAL: &str =
        "1-TVkuVFJBQ0UuSUQ=-U0VHTUVOVC0x-3-c2hvcA==-c2hvcEBob3N0-R0VUOi9vcmRlcg==-MTI3LjAuMC4xOjgwODA=";

    fn scanned(value: &str) -> Option<Sw8Places> {
        let mut buffer = [b'#'; SW8_MAX];
        let len = value.len().min(SW8_MAX);
        buffer[..len].copy_from_slice(&value.as_bytes()[..len]);
        let mut places = Sw8Places::NONE;
        scan(&buffer, value.len() as u32, &mut places).then_some(places)
    }

    fn with_field(field: usize, text: &str) -> String {
        let mut fields = REAL.split('-').collect::<Vec<_>>();
        fields[field] = text;
        fields.join("-")
    }

    #[test]
    fn a_real_value_is_found_whole() {
        let places = scanned(REAL).unwrap();
        let (start, len) = places.trace_id();
        assert_eq!(&REAL[start as usize..][..len as usize], "TVkuVFJBQ0UuSUQ=");
        let (start, len) = places.span_id();
        assert_eq!(&REAL[start as usize..][..len as usize], "3");
        assert!(scanned(&with_field(0, "0")).is_some());
    }

    #[test]
    fn eight_fields_no_more_no_less() {
        assert_eq!(scanned(""), None);
        assert_eq!(scanned("1"), None);
        assert_eq!(scanned(&format!("{REAL}-")), None);
        assert_eq!(scanned(&format!("{REAL}-YQ==")), None);
        assert_eq!(scanned(REAL.rsplit_once('-').unwrap().0), None);
        for end in 0..REAL.len() {
            // Cut anywhere it is malformed, save where only whole groups of the last field are lost.
            let last_field = REAL.rfind('-').unwrap() + 1;
            let whole_groups = end > last_field && (end - last_field).is_multiple_of(4);
            assert_eq!(scanned(&REAL[..end]).is_some(), whole_groups, "{end}");
        }
    }

    #[test]
    fn the_sample_flag_is_zero_or_one() {
        for text in ["", "2", "01", "11", "a", "="] {
            assert_eq!(scanned(&with_field(0, text)), None, "{text:?}");
        }
    }

    #[test]
    fn base64_fields_are_whole_and_not_empty() {
        for field in [1, 2, 4, 5, 6, 7] {
            for text in [
                "", "=", "==", "====", "a", "ab", "abc", "a===", "ab=", "abc==", "abcd=", "ab==cd==", "abc_",
                "ab c", "ab\u{e9}", "ab==c",
            ] {
                assert_eq!(scanned(&with_field(field, text)), None, "{field} {text:?}");
            }
            for text in ["abcd", "ab==", "abc=", "+/09", "abcdab==", "0123"] {
                assert!(scanned(&with_field(field, text)).is_some(), "{field} {text:?}");
            }
        }
    }

    #[test]
    fn the_span_id_is_an_i32() {
        for text in ["0", "7", "007", "2147483647"] {
            assert!(scanned(&with_field(3, text)).is_some(), "{text:?}");
        }
        for text in [
            "",
            "a",
            "1a",
            "+1",
            "1=",
            "2147483648",
            "9999999999",
            "00000000001",
            "99999999999999999999",
        ] {
            assert_eq!(scanned(&with_field(3, text)), None, "{text:?}");
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(scanned(&with_field(1, &"abcd".repeat(50))).is_some());
        assert_eq!(scanned(&with_field(1, &"abcd".repeat(51))), None);
        let fits = (SW8_MAX - REAL.len()) / 4;
        let mut longest = REAL.to_owned();
        longest.insert_str(REAL.rfind('-').unwrap() + 1, &"abcd".repeat(fits));
        assert!(scanned(&longest).is_some());
        longest.push_str(&" ".repeat(SW8_MAX + 1 - longest.len()));
        assert_eq!(scanned(&longest), None);
        assert_eq!(scanned(&"1".repeat(SW8_MAX)), None);
    }
}

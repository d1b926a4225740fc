//! Operation names: `METHOD:/path`, one answer for both sides.
//!
//! The kernel side sends the name of the parent's entry span in `sw8`, user space reports the span itself; OAP
//! joins the two by their equality. So there is one function, and it is total: whatever a request's method,
//! pattern and path hold, out comes a name of at most [`OPERATION_MAX`] printable ASCII characters.

use crate::{
    array::{Unfollowed, load, store},
    limits::{METHOD_MAX, OPERATION_MAX, PATH_MAX, PATTERN_MAX},
};

/// Bytes of the buffer that a name is written into: the next power of two, for masking.
pub const OPERATION_BYTES: usize = 256;

/// What a name is written into, with the state of writing it. On the kernel side it lives in a map.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Operation {
    pub bytes: [u8; OPERATION_BYTES],
    /// Bit n: the n-th byte of the open path segment is a dash.
    dashes: Unfollowed<u64>,
    len: Unfollowed<u32>,
    /// Not 0: something did not fit, nothing more is written.
    full: Unfollowed<u32>,
    /// Where the open path segment begins in `bytes`, and `full` at that time.
    segment_start: Unfollowed<u32>,
    segment_full: Unfollowed<u32>,
    segment_len: Unfollowed<u32>,
    segment_digits: Unfollowed<u32>,
    /// The classes that all bytes of the open path segment share.
    segment_classes: Unfollowed<u32>,
    _pad: u32,
}

const _: () = assert!(size_of::<Operation>() == OPERATION_BYTES + 40);
const _: () = assert!(OPERATION_MAX + 3 <= OPERATION_BYTES);

// === Classes of bytes ===

const DIGIT: u8 = 1 << 0;
const HEX_OR_DASH: u8 = 1 << 1;
const WORD: u8 = 1 << 2;
/// Stands in a name as it is; the others are percent-encoded.
const PLAIN: u8 = 1 << 3;
/// The dash's bit is its position's, so that it can be shifted into place.
const DASH_SHIFT: u32 = 4;
const DASH: u8 = 1 << DASH_SHIFT;

/// A table instead of comparisons: a load is one way through for the verifier.
static CLASSES: [u8; 256] = classes();

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let c = byte as u8;
        let mut class = 0;
        if c > b' ' && c < 0x7f {
            class |= PLAIN;
        }
        if c.is_ascii_digit() {
            class |= DIGIT;
        }
        if c.is_ascii_hexdigit() || c == b'-' {
            class |= HEX_OR_DASH;
        }
        if c.is_ascii_alphanumeric() || c == b'-' || c == b'_' {
            class |= WORD;
        }
        if c == b'-' {
            class |= DASH;
        }
        #[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
        {
            table[byte] = class;
        }
        byte += 1;
    }
    table
}

/// Where a UUID has its dashes.
const UUID_DASHES: u64 = 1 << 8 | 1 << 13 | 1 << 18 | 1 << 23;

// === impl Operation ===

impl Default for Operation {
    fn default() -> Self {
        Self::EMPTY
    }
}

impl Operation {
    /// Nothing written yet.
    pub const EMPTY: Self = Self {
        bytes: [0; OPERATION_BYTES],
        dashes: Unfollowed::new(0),
        len: Unfollowed::new(0),
        full: Unfollowed::new(0),
        segment_start: Unfollowed::new(0),
        segment_full: Unfollowed::new(0),
        segment_len: Unfollowed::new(0),
        segment_digits: Unfollowed::new(0),
        segment_classes: Unfollowed::new(0),
        _pad: 0,
    };

    /// Bytes in use.
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len.get() as usize
    }

    /// Whether nothing has been written; a finished name never is.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..self.len())
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }

    #[inline(always)]
    fn clear(&mut self) {
        self.len.set(0);
        self.full.set(0);
    }

    /// Writes one byte, encoded where it has to be, or nothing.
    #[inline(always)]
    fn push(&mut self, byte: u8, class: u8) {
        let len = self.len.get() as usize;
        let full = self.full.get();
        if class & PLAIN != 0 {
            if full == 0 && len < OPERATION_MAX {
                store(&mut self.bytes, len, byte);
                self.len.set(len as u32 + 1);
                return;
            }
        } else if full == 0 && len + 3 <= OPERATION_MAX {
            store(&mut self.bytes, len, b'%');
            store(&mut self.bytes, len + 1, upper_hex(byte >> 4));
            store(&mut self.bytes, len + 2, upper_hex(byte & 15));
            self.len.set(len as u32 + 3);
            return;
        }
        self.full.set(1);
    }

    #[inline(always)]
    fn begin_segment(&mut self) {
        self.segment_start.set(self.len.get());
        self.segment_full.set(self.full.get());
        self.segment_len.set(0);
        self.segment_digits.set(0);
        self.segment_classes.set(u32::MAX);
        self.dashes.set(0);
    }

    #[inline(always)]
    fn count_in_segment(&mut self, class: u8) {
        let len = self.segment_len.get();
        let dash = (class >> DASH_SHIFT & 1) as u64;
        self.dashes.set(self.dashes.get() | dash << (len & 63));
        self.segment_digits
            .set(self.segment_digits.get() + (class & DIGIT) as u32);
        self.segment_classes
            .set(self.segment_classes.get() & class as u32);
        self.segment_len.set(len + 1);
    }

    /// Whether the open segment looks like an identifier rather than a part of a route.
    #[inline(always)]
    fn segment_is_id(&self) -> bool {
        let classes = self.segment_classes.get() as u8;
        let len = self.segment_len.get();
        let digits = self.segment_digits.get();
        if len == 0 {
            return false;
        }
        if classes & DIGIT != 0 {
            return true;
        }
        if classes & HEX_OR_DASH != 0 {
            if len >= 16 && digits >= 1 {
                return true;
            }
            if len == 36 && self.dashes.get() == UUID_DASHES {
                return true;
            }
        }
        classes & WORD != 0 && len >= 24 && digits >= 4
    }

    /// Puts `{id}` in the place of the open segment if it is one.
    #[inline(always)]
    fn end_segment(&mut self) {
        if !self.segment_is_id() {
            return;
        }
        let start = self.segment_start.get() as usize;
        if self.segment_full.get() != 0 || start + 4 > OPERATION_MAX {
            self.len.set(start as u32);
            self.full.set(1);
            return;
        }
        store(&mut self.bytes, start, b'{');
        store(&mut self.bytes, start + 1, b'i');
        store(&mut self.bytes, start + 2, b'd');
        store(&mut self.bytes, start + 3, b'}');
        self.len.set(start as u32 + 4);
        self.full.set(0);
    }
}

#[inline(always)]
const fn upper_hex(nibble: u8) -> u8 {
    // '0' to '9', then 7 places on 'A' to 'F'; without a branch.
    nibble + b'0' + ((nibble + 6) >> 4) * 7
}

/// Writes `text[from..to]`, with identifiers folded where `fold` is not 0.
#[inline(never)]
fn append<const N: usize>(out: &mut Operation, text: &[u8; N], from: u32, to: u32, fold: u32) {
    out.begin_segment();
    for at in 0..N {
        if at as u32 >= to {
            break;
        }
        if (at as u32) < from {
            continue;
        }
        let byte = load(text, at);
        let class = load(&CLASSES, byte as usize);
        if byte == b'/' {
            if fold != 0 {
                out.end_segment();
            }
            out.push(byte, class);
            out.begin_segment();
        } else {
            out.push(byte, class);
            out.count_in_segment(class);
        }
    }
    if fold != 0 {
        out.end_segment();
    }
}

/// Which bytes of a pattern name a route: from its first slash (a method and a host may precede it) up to its
/// end, without `{$}`. `None` where the pattern only names a prefix. As `from << 16 | to`, 0 for none: one
/// register.
#[inline(never)]
fn route(pattern: &[u8; PATTERN_MAX], len: u32) -> u32 {
    if len == 0 || len as usize > PATTERN_MAX {
        return 0;
    }
    let end = len as usize;
    let last = load(pattern, end - 1);
    // `end - 2` and `end - 3` may wrap around to bytes of no meaning; the slash found below rules that out.
    let before_last = load(pattern, end.wrapping_sub(2));
    let third_last = load(pattern, end.wrapping_sub(3));
    // `/static/` matches all below it, and so does what chi leaves as `/static/*`.
    if last == b'/' || (last == b'*' && before_last == b'/') {
        return 0;
    }
    let mut to = len;
    if last == b'}' && before_last == b'$' && third_last == b'{' && len > 3 {
        to = len - 3;
    }
    for at in 0..PATTERN_MAX {
        if at as u32 >= to {
            break;
        }
        if load(pattern, at) == b'/' {
            return (at as u32) << 16 | to;
        }
    }
    0
}

/// Writes the name of an operation and returns its length.
///
/// The pattern, where there is one that names a route, stands for the path; else the path does, with its
/// identifiers folded into `{id}` unless `keep_path` is not 0. Lengths beyond the arrays count as their ends.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined; a struct of them would have to lie in a map"
)]
pub fn write(
    method: &[u8; METHOD_MAX],
    method_len: u32,
    pattern: &[u8; PATTERN_MAX],
    pattern_len: u32,
    path: &[u8; PATH_MAX],
    path_len: u32,
    keep_path: u32,
    out: &mut Operation,
) -> usize {
    out.clear();
    if method_len == 0 {
        append(out, b"GET:", 0, 4, 0);
    } else {
        append(out, method, 0, method_len, 0);
        append(out, b":", 0, 1, 0);
    }
    let route = route(pattern, pattern_len);
    if route != 0 {
        append(out, pattern, route >> 16, route & 0xffff, 0);
    } else if path_len == 0 {
        append(out, b"/", 0, 1, 0);
    } else {
        append(out, path, 0, path_len, (keep_path == 0) as u32);
    }
    out.len()
}

/// The name for strings of any length: what the arrays do not hold is cut, as it is on its way out of the kernel.
pub fn name(method: &[u8], pattern: &[u8], path: &[u8], keep_path: bool) -> Operation {
    let mut out = Operation::EMPTY;
    let (method, method_len) = padded::<METHOD_MAX>(method);
    let (pattern, pattern_len) = padded::<PATTERN_MAX>(pattern);
    let (path, path_len) = padded::<PATH_MAX>(path);
    write(
        &method,
        method_len,
        &pattern,
        pattern_len,
        &path,
        path_len,
        keep_path as u32,
        &mut out,
    );
    out
}

fn padded<const N: usize>(text: &[u8]) -> ([u8; N], u32) {
    let mut array = [0; N];
    let mut len = 0;
    for (to, from) in array.iter_mut().zip(text) {
        *to = *from;
        len += 1;
    }
    (array, len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, pattern: &str, path: &str, expected: &str) {
        assert_eq!(
            name(method.as_bytes(), pattern.as_bytes(), path.as_bytes(), false).as_str(),
            expected
        );
    }

    #[test]
    fn a_pattern_that_names_a_route_is_the_name() {
        check("GET", "GET /users/{id}", "/users/7", "GET:/users/{id}");
        check(
            "GET",
            "/users/{id}/posts",
            "/users/x/posts",
            "GET:/users/{id}/posts",
        );
        check("POST", "example.com/x/{y...}", "/x/a/b", "POST:/x/{y...}");
        check("POST", "POST example.com/x", "/x", "POST:/x");
        check("GET", "GET /posts/{$}", "/posts/", "GET:/posts/");
        check("GET", "/{$}", "/", "GET:/");
        check("GET", "/items/12345", "/items/12345", "GET:/items/12345");
    }

    #[test]
    fn a_pattern_that_names_a_prefix_is_not() {
        check("GET", "/", "/a/b", "GET:/a/b");
        check("GET", "/static/", "/static/app.js", "GET:/static/app.js");
        check("GET", "/static/", "/static/7", "GET:/static/{id}");
        check("GET", "/api/*", "/api/users", "GET:/api/users");
        check("GET", "example.com", "/a", "GET:/a");
        check("GET", "{$}", "/a", "GET:/a");
    }

    #[test]
    fn absent_parts_have_defaults() {
        check("", "", "", "GET:/");
        check("PUT", "", "", "PUT:/");
        check("OPTIONS", "", "*", "OPTIONS:*");
    }

    #[test]
    fn identifiers_are_folded() {
        check("GET", "", "/users/42", "GET:/users/{id}");
        check("GET", "", "/users/42/", "GET:/users/{id}/");
        check("GET", "", "/users/42/orders/0/x", "GET:/users/{id}/orders/{id}/x");
        check(
            "GET",
            "",
            "/o/6ba7b810-9dad-11d1-80b4-00c04fd430c8",
            "GET:/o/{id}",
        );
        check(
            "GET",
            "",
            "/o/deadbeef-dead-beef-dead-beefdeadbeef",
            "GET:/o/{id}",
        );
        check("GET", "", "/blob/0123456789abcdef", "GET:/blob/{id}");
        check("GET", "", "/t/dBjftJeZ4CVP-mBrx2YJ_1x8", "GET:/t/{id}");
        check("GET", "", "//7", "GET://{id}");
        check("GET", "", "7", "GET:{id}");
    }

    #[test]
    fn words_are_not() {
        check("GET", "", "/v1/users", "GET:/v1/users");
        check("GET", "", "/deadbeef-deadbeef", "GET:/deadbeef-deadbeef");
        check(
            "GET",
            "",
            "/deadbeef-deadbeef-dead-beef-deadbeef",
            "GET:/deadbeef-deadbeef-dead-beef-deadbeef",
        );
        check("GET", "", "/0123456789abcde", "GET:/0123456789abcde");
        check(
            "GET",
            "",
            "/how-to-trace-programs-with-ebpf-in-3-steps",
            "GET:/how-to-trace-programs-with-ebpf-in-3-steps",
        );
        check("GET", "", "/report-2024.pdf", "GET:/report-2024.pdf");
        check("GET", "", "/4.2", "GET:/4.2");
    }

    #[test]
    fn paths_can_be_kept() {
        assert_eq!(name(b"GET", b"", b"/users/42", true).as_str(), "GET:/users/42");
    }

    #[test]
    fn what_is_not_printable_is_encoded() {
        check("GET", "", "/a b\x7f\n", "GET:/a%20b%7F%0A");
        check("GET", "", "/ü", "GET:/%C3%BC");
        check("GET", "/ü/{id}", "/ü/1", "GET:/%C3%BC/{id}");
        check("G T", "", "/", "G%20T:/");
        assert_eq!(name(b"GET", b"", b"/\xff\0", false).as_str(), "GET:/%FF%00");
    }

    #[test]
    fn long_names_are_cut_between_characters() {
        let path = format!("/{}", "a".repeat(300));
        check("GET", "", &path, &format!("GET:/{}", "a".repeat(145)));
        // The encoded byte would end at 151, 150 and 149.
        for (before, kept) in [(143, false), (142, true), (141, true)] {
            let path = format!("/{}\u{1}b", "a".repeat(before));
            let mut expected = format!("GET:/{}", "a".repeat(before));
            if kept {
                expected.push_str("%01");
            }
            if expected.len() < OPERATION_MAX && kept {
                expected.push('b');
            }
            check("GET", "", &path, &expected);
        }
    }

    #[test]
    fn a_long_identifier_makes_room_again() {
        let path = format!("/{}/tail", "7".repeat(200));
        check("GET", "", &path, "GET:/{id}/tail");
        let path = format!("/{}/{}", "a".repeat(143), "7".repeat(20));
        check("GET", "", &path, &format!("GET:/{}/", "a".repeat(143)));
        let path = format!("/{}/{}/b", "a".repeat(140), "7".repeat(20));
        check("GET", "", &path, &format!("GET:/{}/{{id}}", "a".repeat(140)));
        let path = format!("/{}/{}/b", "a".repeat(160), "7".repeat(20));
        check("GET", "", &path, &format!("GET:/{}", "a".repeat(145)));
    }

    #[test]
    fn lengths_beyond_the_arrays_do_no_harm() {
        let mut out = Operation::EMPTY;
        let len = write(
            &[b'M'; 16],
            u32::MAX,
            &[b'/'; PATTERN_MAX],
            u32::MAX,
            &[b'p'; PATH_MAX],
            u32::MAX,
            0,
            &mut out,
        );
        assert_eq!(len, OPERATION_MAX);
        assert!(out.as_str().starts_with("MMMMMMMMMMMMMMMM:pppp"));
    }

    #[test]
    fn any_bytes_give_a_printable_name_in_bounds() {
        // A small generator of our own: the same bytes on each run.
        let mut seed = 0x9e37_79b9_7f4a_7c15u64;
        let mut byte = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            (seed >> 32) as u8
        };
        const LIKELY: &[u8] = b"//--09afAZ_{}$*. ";
        for round in 0..20_000 {
            let mut text = |max: usize| {
                let len = byte() as usize % (max + 1);
                (0..len)
                    .map(|_| {
                        let choice = byte();
                        if round % 2 == 0 {
                            choice
                        } else {
                            LIKELY[choice as usize % LIKELY.len()]
                        }
                    })
                    .collect::<Vec<u8>>()
            };
            let (method, pattern, path) = (text(METHOD_MAX), text(PATTERN_MAX), text(PATH_MAX));
            let operation = name(&method, &pattern, &path, round % 3 == 0);
            let text = operation.as_str();
            assert!(!text.is_empty() && text.len() <= OPERATION_MAX);
            assert_eq!(text.len(), operation.len());
            assert!(text.bytes().all(|c| c > b' ' && c < 0x7f), "{text:?}");
            assert!(text.contains(':'));
        }
    }
}

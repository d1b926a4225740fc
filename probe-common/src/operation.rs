//! Operation names: `METHOD:/path`, one answer for both sides.
//!
//! The kernel side sends the name of the parent's entry span in `sw8`, user space reports the span itself; OAP
//! joins the two by their equality. So there is one function, and it is total: whatever a request's method,
//! pattern and path hold, out comes a name of at most [`OPERATION_MAX`] printable ASCII characters.
//!
//! The verifier walks every way through a loop's body, and remembers where it has been only every hundred
//! instructions: two ways in a short body make a thousand in ten rounds. Hence the tables and masks here instead
//! of comparisons: each body has one way through, and a side way only out of the loop.

use crate::{
    array::{self, Unfollowed, bound, load, store},
    limits::{METHOD_MAX, OPERATION_MAX, PATH_MAX, PATTERN_MAX},
};

/// Bytes of the buffer that a name is written into: all of a method and a path, each byte encoded.
pub const OPERATION_BYTES: usize = 1024;

const _: () = assert!(3 * (METHOD_MAX + 1 + PATH_MAX) + 4 + IGNORED_BYTES <= OPERATION_BYTES);
const _: () = assert!(3 * (METHOD_MAX + 1 + PATTERN_MAX) + 4 + IGNORED_BYTES <= OPERATION_BYTES);

/// The buffer's last bytes: where `{id}` is written when it is not wanted.
const IGNORED_BYTES: usize = 8;
const IGNORED: u32 = (OPERATION_BYTES - IGNORED_BYTES) as u32;

/// What a name is written into. On the kernel side it lives in a map.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Operation {
    pub bytes: [u8; OPERATION_BYTES],
    len: Unfollowed<u32>,
    /// What [`route`] found.
    route: Unfollowed<u32>,
    segment: Segment,
}

const _: () = assert!(size_of::<Operation>() == OPERATION_BYTES + 24);

/// The segment of a path that is not at its end yet.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
struct Segment {
    /// Where it began in the name.
    start: Unfollowed<u32>,
    len: Unfollowed<u32>,
    digits: Unfollowed<u32>,
    /// The classes that all its bytes are of.
    classes: Unfollowed<u32>,
}

/// What a part of a name is taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Source {
    Pattern = 0,
    Path = 1,
    /// The path, with `{id}` for each part that looks like an identifier.
    FoldedPath = 2,
}

/// Bytes of a pattern or path that are appended at once. In parts, since the kernel side has the verifier walk over one
/// part only, wherever it lies.
pub const PART: u32 = 16;

// === What is known about each byte ===

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const fn set<const N: usize>(table: &mut [u32; N], at: usize, value: u32) {
    table[at] = value;
}

macro_rules! each_byte {
    ($of:path) => {{
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            set(&mut table, byte, $of(byte as u8));
            byte += 1;
        }
        table
    }};
}

const DIGIT: u32 = 1 << 0;
const HEX_OR_DASH: u32 = 1 << 1;
const WORD: u32 = 1 << 2;
const CLASSES: u32 = DIGIT | HEX_OR_DASH | WORD;

static CLASS: [u32; 256] = each_byte!(class);

const fn class(c: u8) -> u32 {
    let mut class = 0;
    if c.is_ascii_digit() {
        class |= DIGIT;
    }
    if c.is_ascii_hexdigit() || c == b'-' {
        class |= HEX_OR_DASH;
    }
    if c.is_ascii_alphanumeric() || c == b'-' || c == b'_' {
        class |= WORD;
    }
    class
}

/// What stands for a byte in a name: up to three characters, the first lowest, and their number on top.
static ENCODED: [u32; 256] = each_byte!(encoded);

const fn encoded(c: u8) -> u32 {
    if c > b' ' && c < 0x7f {
        u32::from_le_bytes([c, 0, 0, 1])
    } else {
        u32::from_le_bytes([b'%', upper_hex(c >> 4), upper_hex(c & 15), 3])
    }
}

const fn upper_hex(nibble: u8) -> u8 {
    if nibble < 10 {
        b'0' + nibble
    } else {
        b'A' - 10 + nibble
    }
}

/// All bits for a slash.
static AT_SLASH: [u32; 256] = each_byte!(at_slash);

const fn at_slash(c: u8) -> u32 {
    if c == b'/' { u32::MAX } else { 0 }
}

/// By a segment's length: the kinds of identifier that it is long enough for. At most [`PATH_MAX`].
static LONG_ENOUGH: [u32; 512] = {
    let mut table = [0; 512];
    let mut len = 0;
    while len < 512 {
        let mut kinds = 0;
        if len >= 1 {
            kinds |= DIGIT;
        }
        if len >= 16 {
            kinds |= HEX_OR_DASH;
        }
        if len >= 24 {
            kinds |= WORD;
        }
        set(&mut table, len, kinds);
        len += 1;
    }
    table
};

/// By the number of a segment's digits: the kinds of identifier that it has enough digits for.
static DIGITS_ENOUGH: [u32; 512] = {
    let mut table = [DIGIT | HEX_OR_DASH | WORD; 512];
    set(&mut table, 0, DIGIT);
    let mut digits = 1;
    while digits < 4 {
        set(&mut table, digits, DIGIT | HEX_OR_DASH);
        digits += 1;
    }
    table
};

/// By the kinds of identifier that a segment is: all bits if it is any.
static IS_ID: [u32; 8] = [
    0,
    u32::MAX,
    u32::MAX,
    u32::MAX,
    u32::MAX,
    u32::MAX,
    u32::MAX,
    u32::MAX,
];

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
        len: Unfollowed::new(0),
        route: Unfollowed::new(0),
        segment: Segment {
            start: Unfollowed::new(0),
            len: Unfollowed::new(0),
            digits: Unfollowed::new(0),
            classes: Unfollowed::new(0),
        },
    };

    /// Bytes in use: at most [`OPERATION_MAX`].
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.len.get() as usize
    }

    /// Whether nothing has been written; a finished name never is.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The beginning of the buffer, in which a finished name lies; for loops over it.
    #[inline(always)]
    pub fn text(&self) -> &[u8; 256] {
        const { assert!(OPERATION_MAX <= 256 && OPERATION_BYTES >= 256) };
        // SAFETY: the buffer is longer than that.
        unsafe { self.bytes.first_chunk().unwrap_unchecked() }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.bytes
            .get(..self.len())
            .and_then(|bytes| core::str::from_utf8(bytes).ok())
            .unwrap_or_default()
    }
}

/// Writes one byte as it stands in a name to the place `at`, and returns the place after it.
#[inline(always)]
fn encode(out: &mut Operation, at: u32, byte: u8) -> u32 {
    let [first, second, third, len] = array::entry(&ENCODED, byte as usize).to_le_bytes();
    store(&mut out.bytes, at as usize, first);
    store(&mut out.bytes, at as usize + 1, second);
    store(&mut out.bytes, at as usize + 2, third);
    at + len as u32
}

/// Appends the first `len` bytes as they are.
#[inline(always)]
fn append<const N: usize>(out: &mut Operation, text: &[u8; N], len: u32) {
    let len = bound(len);
    for at in 0..N as u32 {
        if at >= len {
            break;
        }
        append_byte(out, load(text, at as usize));
    }
}

#[inline(always)]
fn append_byte(out: &mut Operation, byte: u8) {
    let at = out.len.get();
    let end = encode(out, at, byte);
    out.len.set(end);
}

/// Appends `count` bytes, at most [`PART`], from `from` on as they are.
#[inline(always)]
pub fn append_part<const N: usize>(out: &mut Operation, text: &[u8; N], from: u32, count: u32) {
    let count = bound(count);
    for step in 0..PART {
        if step >= count {
            break;
        }
        append_byte(out, load(text, from.wrapping_add(step) as usize));
    }
}

/// Before the first part of a path that is folded.
#[inline(always)]
fn begin_folding(out: &mut Operation) {
    let start = out.len.get();
    out.segment.start.set(start);
    out.segment.len.set(0);
    out.segment.digits.set(0);
    out.segment.classes.set(CLASSES);
}

/// Appends `count` bytes, at most [`PART`], of a path from `from` on, with `{id}` for each segment that looks like an
/// identifier.
#[inline(always)]
pub fn fold_part(out: &mut Operation, path: &[u8; PATH_MAX], from: u32, count: u32) {
    let count = bound(count);
    let mut start = out.segment.start.get();
    let mut segment_len = out.segment.len.get();
    let mut digits = out.segment.digits.get();
    let mut classes = out.segment.classes.get();
    for step in 0..PART {
        if step >= count {
            break;
        }
        let byte = load(path, from.wrapping_add(step) as usize);
        let class = array::entry(&CLASS, byte as usize);
        let slash = array::entry(&AT_SLASH, byte as usize);
        // At a slash: the segment's end moves back to behind `{id}` if it is an identifier.
        let end = fold(out, start, segment_len, digits, classes, slash);
        let end = encode(out, end, byte);
        out.len.set(end);
        start = (start & !slash) | (end & slash);
        segment_len = (segment_len + 1) & !slash;
        digits = (digits + (class & DIGIT)) & !slash;
        classes = (classes & class) | (CLASSES & slash);
    }
    out.segment.start.set(start);
    out.segment.len.set(segment_len);
    out.segment.digits.set(digits);
    out.segment.classes.set(classes);
}

/// Behind its last part.
#[inline(always)]
fn end_folding(out: &mut Operation) {
    let Segment {
        start,
        len,
        digits,
        classes,
    } = out.segment;
    let end = fold(out, start.get(), len.get(), digits.get(), classes.get(), u32::MAX);
    out.len.set(end);
}

/// Has the bytes from `from` to `to` appended, part by part.
#[inline(always)]
fn each_part(from: u32, to: u32, mut part: impl FnMut(u32, u32)) {
    let count = bound(to.wrapping_sub(from));
    let mut done = 0;
    while done < PATH_MAX as u32 {
        if done >= count {
            break;
        }
        part(from.wrapping_add(done), count - done);
        done += PART;
    }
}

/// Where the name written so far ends, with the segment that began at `start` folded if it is an identifier and
/// all bits of `here` are set.
#[inline(always)]
fn fold(out: &mut Operation, start: u32, len: u32, digits: u32, classes: u32, here: u32) -> u32 {
    let kinds =
        classes & array::entry(&LONG_ENOUGH, len as usize) & array::entry(&DIGITS_ENOUGH, digits as usize);
    let folded = here & array::entry(&IS_ID, kinds as usize);
    let at = ((start & folded) | (IGNORED & !folded)) as usize;
    store(&mut out.bytes, at, b'{');
    store(&mut out.bytes, at + 1, b'i');
    store(&mut out.bytes, at + 2, b'd');
    store(&mut out.bytes, at + 3, b'}');
    ((start + 4) & folded) | (out.len.get() & !folded)
}

/// Cuts the name where it is too long, but not within an encoded byte.
#[inline(always)]
fn cut(out: &mut Operation) {
    if out.len.get() as usize <= OPERATION_MAX {
        return;
    }
    let mut len = OPERATION_MAX;
    if load(&out.bytes, OPERATION_MAX - 1) == b'%' {
        len = OPERATION_MAX - 1;
    } else if load(&out.bytes, OPERATION_MAX - 2) == b'%' {
        len = OPERATION_MAX - 2;
    }
    out.len.set(len as u32);
}

/// Which bytes of a pattern name a route: from its first slash (a method and a host may precede it) up to its
/// end, without `{$}`. As `from << 16 | to`, or 0 where it names none: `/` and `/*` match whatever nobody else does,
/// and would make one operation of a whole service.
#[inline(never)]
fn route(pattern: &[u8; PATTERN_MAX], len: u32) -> u32 {
    if len == 0 || len as usize > PATTERN_MAX {
        return 0;
    }
    // From here on the compiler does not know that it is no longer than the array: it would leave out the masks.
    let len = bound(len);
    let end = len as usize;
    let last = load(pattern, end - 1);
    // `end - 2` and `end - 3` may wrap around to bytes of no meaning; the slash sought below rules that out.
    let before_last = load(pattern, end.wrapping_sub(2));
    let third_last = load(pattern, end.wrapping_sub(3));
    // chi's form of a subtree; the mux's own is `/static/`.
    let star = (last == b'*' && before_last == b'/') as u32;
    let mut to = len;
    if last == b'}' && before_last == b'$' && third_last == b'{' && len > 3 {
        to = len - 3;
    }
    let to = bound(to);
    let mut from = 0;
    let mut seen = 0;
    for at in 0..PATTERN_MAX as u32 {
        if at >= to {
            break;
        }
        seen |= array::entry(&AT_SLASH, load(pattern, at as usize) as usize);
        from += !seen & 1;
    }
    // Nothing behind the slash but perhaps the star: the catch-all. That of one path, `/{$}`, is its path as well.
    if seen == 0 || to.wrapping_sub(from) <= 1 + star {
        0
    } else {
        from << 16 | to
    }
}

/// As [`ENCODED`], with a dot for a slash and one character for each byte.
static RPC: [u32; 256] = each_byte!(rpc);

const fn rpc(c: u8) -> u32 {
    if c == b'/' {
        b'.' as u32
    } else if c > b' ' && c < 0x7f {
        c as u32
    } else {
        b'?' as u32
    }
}

/// Writes the name of a gRPC method, `/pkg.Service/Method`, as SkyWalking has it: `pkg.Service.Method`. Returns its
/// length.
#[inline(always)]
pub fn write_rpc(path: &[u8; PATH_MAX], path_len: u32, out: &mut Operation) -> usize {
    let skip = array::entry(&AT_SLASH, load(path, 0) as usize) & 1;
    let mut count = path_len;
    if count as usize > PATH_MAX {
        count = PATH_MAX as u32;
    }
    let count = bound(count.saturating_sub(skip));
    out.len.set(0);
    for at in 0..OPERATION_MAX as u32 {
        if at >= count {
            break;
        }
        let byte = array::entry(&RPC, load(path, (at + skip) as usize) as usize) as u8;
        store(&mut out.bytes, at as usize, byte);
        out.len.set(at + 1);
    }
    if out.len.get() == 0 {
        store(&mut out.bytes, 0, b'?');
        out.len.set(1);
    }
    out.len()
}

/// Writes the name of an operation and returns its length.
///
/// The pattern, where there is one that names a route, stands for the path; else the path does, with its
/// identifiers folded into `{id}`. Where `keep_path` is not 0, it is the path as it came. Lengths beyond the arrays count as their ends.
///
/// `part` appends what it is told of the pattern or path to `out`: by [`append_part`], or [`fold_part`].
///
/// # Safety
///
/// `out` can be read and written.
#[inline(always)]
#[expect(
    clippy::too_many_arguments,
    reason = "inlined; a struct of them would have to lie in a map"
)]
pub unsafe fn write_by(
    method: &[u8; METHOD_MAX],
    method_len: u32,
    pattern: &[u8; PATTERN_MAX],
    pattern_len: u32,
    path_len: u32,
    keep_path: u32,
    out: *mut Operation,
    mut part: impl FnMut(Source, u32, u32),
) -> u32 {
    // SAFETY: the caller's; no reference is kept while `part` has the operation.
    unsafe {
        (*out).len.set(0);
        if method_len == 0 {
            append(&mut *out, b"GET:", 4);
        } else {
            append(&mut *out, method, method_len);
            append_byte(&mut *out, b':');
        }
        (*out).route.set(route(pattern, pattern_len));
        let route = (*out).route.get();
        if keep_path == 0 && route != 0 {
            each_part(route >> 16, route & 0xffff, |from, count| {
                part(Source::Pattern, from, count);
            });
        } else if path_len == 0 {
            append_byte(&mut *out, b'/');
        } else if keep_path != 0 {
            each_part(0, path_len, |from, count| part(Source::Path, from, count));
        } else {
            begin_folding(&mut *out);
            each_part(0, path_len, |from, count| part(Source::FoldedPath, from, count));
            end_folding(&mut *out);
        }
        cut(&mut *out);
        (*out).len() as u32
    }
}

/// What the kernel side writes.
#[expect(clippy::too_many_arguments, reason = "as for `write_by`")]
fn write(
    method: &[u8; METHOD_MAX],
    method_len: u32,
    pattern: &[u8; PATTERN_MAX],
    pattern_len: u32,
    path: &[u8; PATH_MAX],
    path_len: u32,
    keep_path: u32,
    out: &mut Operation,
) -> usize {
    let out = &raw mut *out;
    let part = |source, from, count| {
        // SAFETY: nobody else has it meanwhile.
        let out = unsafe { &mut *out };
        match source {
            Source::Pattern => append_part(out, pattern, from, count),
            Source::Path => append_part(out, path, from, count),
            Source::FoldedPath => fold_part(out, path, from, count),
        }
    };
    // SAFETY: the caller's own.
    let len = unsafe {
        write_by(
            method,
            method_len,
            pattern,
            pattern_len,
            path_len,
            keep_path,
            out,
            part,
        )
    };
    len as usize
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

/// The name of a gRPC method of any length.
pub fn rpc_name(path: &[u8]) -> Operation {
    let mut out = Operation::EMPTY;
    let (path, path_len) = padded::<PATH_MAX>(path);
    write_rpc(&path, path_len, &mut out);
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
    fn a_grpc_method_has_dots_and_no_leading_slash() {
        assert_eq!(rpc_name(b"/pkg.Echo/UnaryEcho").as_str(), "pkg.Echo.UnaryEcho");
        assert_eq!(rpc_name(b"pkg.Echo/Unary Echo").as_str(), "pkg.Echo.Unary?Echo");
        assert_eq!(rpc_name(b"").as_str(), "?");
        assert_eq!(rpc_name(b"/").as_str(), "?");
        assert_eq!(rpc_name(&[b'a'; 400]).len(), OPERATION_MAX);
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
    fn a_pattern_that_names_a_subtree_is_too() {
        check("GET", "/static/", "/static/app.js", "GET:/static/");
        check("GET", "GET example.com/tree/{x}/", "/tree/7/8", "GET:/tree/{x}/");
        check("GET", "/static/*", "/static/app.js", "GET:/static/*");
        check("GET", "/a", "/a", "GET:/a");
        check("GET", "/a*", "/a*", "GET:/a*");
    }

    #[test]
    fn a_pattern_that_matches_everything_is_not() {
        check("GET", "/", "/a/b", "GET:/a/b");
        check("GET", "GET /", "/a/7", "GET:/a/{id}");
        check("GET", "example.com/", "/a/b", "GET:/a/b");
        check("GET", "/*", "/api/users", "GET:/api/users");
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
        for pattern in ["", "GET /users/{id}"] {
            let kept = name(b"GET", pattern.as_bytes(), b"/users/42", true);
            assert_eq!(kept.as_str(), "GET:/users/42");
        }
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
        check("GET", "", &path, &format!("GET:/{}/{{", "a".repeat(143)));
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

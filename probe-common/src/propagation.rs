//! The header lines prepared for one outgoing request, and what became of them.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::{
    array, base64,
    context::{sw8::Sw8Places, traceparent},
    hex,
    limits::{OPERATION_MAX, PREPARED_MAX, SW8_MAX, TRACE_ID_BASE64_MAX},
    operation::Operation,
};

/// The places of `SOCKET_FIELDS`: where the kernel's `struct sock` has the bytes that wait to be sent, with what they
/// take in its memory (`sk_wmem_queued`).
pub const SOCKET_QUEUED: u32 = 0;
/// And how many may (`sk_sndbuf`).
pub const SOCKET_LIMIT: u32 = 1;
pub const SOCKET_FIELDS_MAX: u32 = 2;

/// What became of the header of one outgoing request. Stored as a number in [`Prepared::outcome`] and in the
/// record of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Outcome {
    /// Propagation is off for this target.
    Off = 0,
    /// Prepared, but the request's first bytes have not been seen on an enrolled socket.
    NotSeen = 1,
    /// The header went out.
    Inserted = 2,
    /// The header went out in place of one that the program had forwarded from its own caller.
    Replaced = 3,
    /// The request carried a header of the program's own, which was left alone.
    Present = 4,
    /// The connection is encrypted, and nobody on this host has the other end.
    Encrypted = 5,
    /// The connection is not a plain TCP one we know.
    UnknownConnection = 6,
    /// The message did not start with a request line of HTTP/1.
    NoRequestLine = 7,
    /// The kernel refused to make room.
    Refused = 8,
    /// The lines were too long.
    TooLong = 9,
    /// The call ended before it had a connection.
    NoConnection = 10,
    /// The connection is encrypted, and its other end on this host took what the header would have said from a map.
    Joined = 11,
    /// The call is not sampled.
    NotSampled = 12,
}

impl Outcome {
    /// The outcome with this number.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Off,
            1 => Self::NotSeen,
            2 => Self::Inserted,
            3 => Self::Replaced,
            4 => Self::Present,
            5 => Self::Encrypted,
            6 => Self::UnknownConnection,
            7 => Self::NoRequestLine,
            8 => Self::Refused,
            9 => Self::TooLong,
            10 => Self::NoConnection,
            11 => Self::Joined,
            12 => Self::NotSampled,
            _ => return None,
        })
    }
}

/// The header lines of one outgoing request: the value of the map `PREPARED`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Prepared {
    /// An [`Outcome`].
    pub outcome: u32,
    /// Bytes of `lines` in use.
    pub len: u32,
    /// Hash of the `sw8` value that the parent request came with, or 0: a request that carries that very value
    /// forwards it, and the header is replaced.
    pub forwarded_hash: u64,
    /// The call that this was prepared for. A connection may go on to its next request before the call is over.
    pub owner: u64,
    /// What had become of the header that stood here before.
    pub previous: u32,
    pub _pad: u32,
    /// Whole lines, each ended by CR LF; for HTTP/2 whole fields in HPACK.
    pub lines: [u8; PREPARED_MAX],
}

const _: () = assert!(size_of::<Prepared>() == 32 + PREPARED_MAX);

// === impl Prepared ===

impl Prepared {
    /// No lines.
    pub const EMPTY: Self = Self {
        outcome: Outcome::NotSeen as u32,
        len: 0,
        forwarded_hash: 0,
        owner: 0,
        previous: Outcome::NotSeen as u32,
        _pad: 0,
        lines: [0; PREPARED_MAX],
    };

    /// Takes all lines away.
    #[inline(always)]
    pub fn clear(&mut self) {
        self.outcome = Outcome::NotSeen as u32;
        self.set_end(0);
    }

    /// The place where the next byte goes, if `room` bytes still fit; else what has been prepared is not to be
    /// used, and [`Self::outcome`] says so.
    ///
    /// By way of memory, so that the verifier does not carry each possible end of one piece through the next.
    #[inline(always)]
    fn place(&mut self, room: usize) -> Option<u32> {
        // SAFETY: a reference is valid for reading.
        let at = unsafe { core::ptr::read_volatile(&self.len) };
        if at as usize + room > PREPARED_MAX {
            self.outcome = Outcome::TooLong as u32;
            return None;
        }
        Some(at)
    }

    #[inline(always)]
    fn set_end(&mut self, end: u32) {
        // SAFETY: a reference is valid for writing.
        unsafe { core::ptr::write_volatile(&mut self.len, end) }
    }

    /// Appends one byte.
    #[inline(always)]
    pub fn push_byte(&mut self, byte: u8) {
        let Some(at) = self.place(1) else { return };
        array::store(&mut self.lines, at as usize, byte);
        self.set_end(at + 1);
    }

    /// Appends all of it. Byte by byte: of a loop the compiler makes a copy of a length that older verifiers lose.
    #[inline(always)]
    pub fn push_all<const N: usize>(&mut self, text: &[u8; N]) {
        let Some(at) = self.place(N) else { return };
        for (step, byte) in text.iter().enumerate() {
            array::store(&mut self.lines, at as usize + step, *byte);
        }
        self.set_end(at + N as u32);
    }

    /// Appends the first `len` bytes.
    #[inline(always)]
    pub fn push<const N: usize>(&mut self, text: &[u8; N], len: u32) {
        self.push_part::<N, N>(text, 0, len);
    }

    /// Appends `text[from..from + len]`, at most `MAX` bytes.
    #[inline(always)]
    fn push_part<const MAX: usize, const N: usize>(&mut self, text: &[u8; N], from: u32, len: u32) {
        let len = if len as usize > MAX { MAX as u32 } else { len };
        let Some(at) = self.place(len as usize) else {
            return;
        };
        let end = array::copy::<MAX, _, _>(text, from, len, &mut self.lines, at);
        self.set_end(end);
    }

    /// Appends the first `len` bytes, at most `MAX`, in base64. A small bound is less for the verifier to walk.
    #[inline(always)]
    pub fn push_base64<const MAX: usize, const N: usize>(&mut self, text: &[u8; N], len: u32) {
        let len = if len as usize > MAX { MAX as u32 } else { len };
        let Some(at) = self.place(base64::encoded_len(len as usize)) else {
            return;
        };
        let end = base64::encode::<MAX, _, _>(text, len, &mut self.lines, at);
        self.set_end(end);
    }

    /// Appends one of our ids as `sw8` has it: its 32 digits in base64.
    #[inline(always)]
    pub fn push_id(&mut self, id: &[u8; 16]) {
        let mut digits = [0; 32];
        hex::encode(id, &mut digits, 0);
        self.push_base64::<32, _>(&digits, 32);
    }

    /// Appends the trace id of an incoming `sw8` as it came, in base64.
    #[inline(always)]
    pub fn push_trace_id_of(&mut self, sw8: &[u8; SW8_MAX], places: &Sw8Places) {
        let (from, len) = places.trace_id();
        self.push_part::<TRACE_ID_BASE64_MAX, _>(sw8, from, len);
    }

    /// Appends an operation name in base64.
    #[inline(always)]
    pub fn push_operation(&mut self, operation: &Operation) {
        self.push_base64::<OPERATION_MAX, _>(operation.text(), operation.len() as u32);
    }

    /// Appends a number in decimal.
    #[inline(always)]
    pub fn push_number(&mut self, number: u32) {
        let Some(at) = self.place(10) else { return };
        let end = decimal(number, &mut self.lines, at);
        self.set_end(end);
    }

    /// Appends the value of a `traceparent`.
    #[inline(always)]
    pub fn push_traceparent(&mut self, trace_id: &[u8; 16], parent_id: &[u8; 8], flags: u8) {
        let Some(at) = self.place(64) else { return };
        let end = traceparent::write(trace_id, parent_id, flags, &mut self.lines, at);
        self.set_end(end);
    }
}

/// Writes a number to the place `at` and returns the place after it.
#[inline(never)]
fn decimal(number: u32, out: &mut [u8; PREPARED_MAX], at: u32) -> u32 {
    let mut divisor = 1_000_000_000;
    let mut rest = number;
    // The compiler shall not know how far it is to the array's end: it would leave out masks.
    let mut end = array::bound(at);
    // 1 once a digit has been written; added to the end instead of branched on.
    let mut begun = 0;
    for _ in 0..10 {
        let digit = rest / divisor;
        rest -= digit * divisor;
        // Each digit is written; a leading zero is overwritten by the next.
        array::store(out, end as usize, b'0' + digit as u8);
        begun |= (digit + 15) >> 4;
        end += begun;
        divisor /= 10;
    }
    // The number 0 is one zero.
    end + (1 - begun)
}

#[cfg(feature = "user")]
mod pod {
    // SAFETY: zerocopy's derives prove that it is plain bytes without padding.
    unsafe impl aya::Pod for super::Prepared {}
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(prepared: &Prepared) -> &str {
        std::str::from_utf8(&prepared.lines[..prepared.len as usize]).unwrap()
    }

    #[test]
    fn pieces_stand_one_after_the_other() {
        let mut prepared = Prepared::EMPTY;
        prepared.push(b"sw8: 1-.", 7);
        prepared.push_id(&[0xab; 16]);
        prepared.push_byte(b'-');
        prepared.push_number(0);
        prepared.push_byte(b'-');
        prepared.push_base64::<8, _>(b"shop____", 4);
        prepared.push_all(b"\r\n");
        prepared.push_traceparent(&[1; 16], &[2; 8], 1);
        assert_eq!(
            text(&prepared),
            "sw8: 1-YWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWJhYmFiYWI=-0-c2hvcA==\r\n\
             00-01010101010101010101010101010101-0202020202020202-01"
        );
        assert_eq!(prepared.outcome, Outcome::NotSeen as u32);
        prepared.clear();
        assert_eq!(text(&prepared), "");
    }

    #[test]
    fn a_trace_id_is_handed_on_as_it_came() {
        let mut value = [0; SW8_MAX];
        let text_of_value = b"1-VFJBQ0U=-U0VH-3-c2hvcA==-aW5z-R0VUOi8=-aG9zdDo4MA==";
        value[..text_of_value.len()].copy_from_slice(text_of_value);
        let mut places = Sw8Places::NONE;
        assert!(crate::context::sw8::scan(
            &value,
            text_of_value.len() as u32,
            &mut places
        ));
        let mut prepared = Prepared::EMPTY;
        prepared.push_trace_id_of(&value, &places);
        prepared.push_byte(b'-');
        prepared.push_operation(&crate::operation::name(b"GET", b"", b"/", false));
        assert_eq!(text(&prepared), "VFJBQ0U=-R0VUOi8=");
    }

    #[test]
    fn numbers() {
        for number in [
            0,
            1,
            9,
            10,
            99,
            100,
            1_000_000_000,
            2_147_483_647,
            4_294_967_295,
            1_010,
        ] {
            let mut prepared = Prepared::EMPTY;
            prepared.push_number(number);
            assert_eq!(text(&prepared), number.to_string());
        }
    }

    #[test]
    fn too_long_is_said_and_writes_nothing() {
        let mut prepared = Prepared::EMPTY;
        let text = [b'a'; 1024];
        prepared.push(&text, 1024);
        prepared.push(&text, 1000);
        assert_eq!(prepared.len, 2024);
        prepared.push_base64::<16, _>(b"0123456789abcdef", 16);
        prepared.push_byte(b'b');
        assert_eq!(prepared.len, 2048);
        prepared.push_base64::<2, _>(b"ab", 2);
        assert_eq!(prepared.outcome, Outcome::TooLong as u32);
        assert_eq!(prepared.len, 2048);
    }
}

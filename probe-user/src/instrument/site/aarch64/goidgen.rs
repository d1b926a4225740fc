//! Where `runtime.newproc1` takes ids of goroutines from.

use std::collections::HashMap;

use super::{
    super::{GOID_BATCH, steps::Flow},
    bits, signed,
    steps::{self, ZERO_OR_STACK},
    words,
};

/// See [`super::super::goidgen`]. Go's compiler has two ways to add to a counter, of which a processor goes one: this is
/// the single instruction that processors since 8.1 have, `ldaddal`.
pub(super) fn goidgen(address: u64, body: &[u8]) -> Option<u64> {
    let decoded = steps::decode(body);
    // Registers whose value is known: constants, and addresses that are reckoned from the instruction's own.
    let mut known: HashMap<u32, u64> = HashMap::new();
    let mut found = None;
    for ((at, word), step) in words(body).zip(&decoded.0) {
        if word & 0xffe0_fc00 == 0xf8e0_0000
            && known.get(&bits(word, 16, 5)) == Some(&GOID_BATCH)
            && let Some(counter) = known.get(&bits(word, 5, 5))
            && found.replace(*counter).is_some()
        {
            return None;
        }
        let value = loaded(address.wrapping_add(at), word, &known);
        known.retain(|register, _| step.writes >> *register & 1 == 0);
        known.extend(value);
        if !matches!(step.flow, Flow::Next | Flow::Branch(_)) {
            known.clear();
        }
    }
    found
}

/// The register that the instruction puts a value into, and the value, where that can be told.
fn loaded(address: u64, word: u32, known: &HashMap<u32, u64>) -> Option<(u32, u64)> {
    let (to, from) = (bits(word, 0, 5), bits(word, 5, 5));
    if to == ZERO_OR_STACK {
        return None;
    }
    // `adrp`: a page, by its distance from ours.
    if word & 0x9f00_0000 == 0x9000_0000 {
        let pages = signed(word, 5, 19) << 2 | i64::from(bits(word, 29, 2));
        return Some((to, (address & !0xfff).wrapping_add_signed(pages << 12)));
    }
    // `add` of a number.
    if word & 0xff80_0000 == 0x9100_0000 && from != ZERO_OR_STACK {
        let number = u64::from(bits(word, 10, 12)) << (12 * bits(word, 22, 1));
        return Some((to, known.get(&from)?.wrapping_add(number)));
    }
    // The batch: `movz`, or `orr` of nothing and one bit, which is this one.
    let is_batch = word & 0xffff_ffe0 == 0xd280_0200 || word & 0xffff_ffe0 == 0xb27c_03e0;
    is_batch.then_some((to, GOID_BATCH))
}

//! Any bytes as a function's body, on both architectures; the first two say where the function that it calls lies.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::{
    discover::elf::Architecture,
    instrument::site::{self, SiteKind},
};

fuzz_target!(|bytes: &[u8]| {
    let Some((callee, body)) = bytes.split_first_chunk() else {
        return;
    };
    let callee = u64::from(u16::from_le_bytes(*callee));
    let kinds = [
        SiteKind::StackCheck,
        SiteKind::Success { callee: "" },
        SiteKind::AfterCall { callee: "", error: 2 },
        SiteKind::Result { callee: "" },
        SiteKind::Returns { but_success_of: "" },
        SiteKind::EachReturn,
    ];
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        for kind in kinds {
            for spot in site::find(architecture, kind, body, Some(callee)).unwrap_or_default() {
                assert!(spot.at < body.len() as u64);
            }
        }
        let _ = site::receiver_at(architecture, body);
        let _ = site::goidgen(architecture, 0x40_0000, body);
    }
});

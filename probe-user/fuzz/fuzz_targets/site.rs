//! Any bytes as a function's body, on both architectures.
#![no_main]

use libfuzzer_sys::fuzz_target;
use probe_user::{
    discover::elf::Architecture,
    instrument::site::{self, SiteKind},
};

fuzz_target!(|body: &[u8]| {
    for architecture in [Architecture::Amd64, Architecture::Arm64] {
        for kind in [SiteKind::StackCheck, SiteKind::Returns] {
            for spot in site::find(architecture, kind, body).unwrap_or_default() {
                assert!(spot.at < body.len() as u64);
            }
        }
        let _ = site::goidgen(architecture, 0x40_0000, body);
    }
});

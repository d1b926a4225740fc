//! The pure middle by itself: how many events a second one core takes from bytes to lines of JSON.
//!
//! `cargo bench -p probe-user --bench pipeline`. Each round is one request with one call, in the order in which
//! they come from the kernel.
#![expect(clippy::print_stdout, reason = "it is what a bench is for")]
#![expect(clippy::unwrap_used, reason = "a bench fails aloud")]

use std::{io, sync::Arc};

use probe_user::{
    event::{
        decode,
        recording::{Recorded, Types},
    },
    export::json::{Json, JsonSettings},
    trace::{Settings, Tracer, segment::Identity},
};

const ROUNDS: u32 = 300_000;

const CALL: &str = r#"{"event":"call","tgid":7,"start_ns":2000000,"end_ns":4000000,"goid":18,"parent_goid":18,"segment_id":"aa01","span_id":1,"parent":"context","flags":["trace_foreign"],"propagation":2,"status":200,"method":"GET","scheme":"http","peer":"order-service:9082","path":"/orders/12345/items"}"#;
const REQUEST: &str = r#"{"event":"request","tgid":7,"start_ns":1000000,"end_ns":6000000,"goid":18,"segment_id":"aa01","span_count":2,"flags":["sw8_continued","operation_sent"],"status":200,"method":"GET","path":"/users/42","host":"user-service:9081","pattern":"GET /users/{id}","operation":"GET:/users/{id}","sw8":"1-NTgwMzNjMDE2YTZjZDUwNTUzMmM2YzZkN2RjMmVlNzM=-NTgwMzNjMDE2YTZjZDUwNTUzMmM2YzZkN2RjMmVlNzM=-1-Z2F0ZXdheQ==-OTI2LTU2NzIwOEB2bQ==-R0VUOi9wcm9maWxl-MTI3LjAuMC4xOjI5MDgx"}"#;

fn main() {
    let mut types = Types::default();
    let records = [CALL, REQUEST].map(|line| Recorded::from_line(line).unwrap().to_bytes(&mut types));
    let mut tracer = Tracer::new(Settings::default());
    let identity = Identity {
        service: "user-service".into(),
        instance: "user@host".into(),
    };
    tracer.add_target(7, Arc::new(identity));
    let mut json = Json::new(io::sink(), JsonSettings::default());

    let mut decoded = 0;
    let decoding = measure(|| {
        for record in records.iter().cycle().take(2 * ROUNDS as usize) {
            decoded += u64::from(decode(record).is_ok());
        }
    });
    assert_eq!(decoded, 2 * u64::from(ROUNDS));

    let (mut segments, mut spans) = (Vec::new(), 0);
    let tracing = measure(|| {
        for record in records.iter().cycle().take(2 * ROUNDS as usize) {
            tracer.on_event(
                &decode(record).unwrap(),
                1_700_000_000_000_000_000,
                &(),
                &mut segments,
            );
            spans += segments
                .drain(..)
                .map(|segment| segment.spans.len())
                .sum::<usize>();
        }
    });
    assert_eq!(spans, 2 * ROUNDS as usize, "each event is a span");

    let writing = measure(|| {
        for record in records.iter().cycle().take(2 * ROUNDS as usize) {
            tracer.on_event(
                &decode(record).unwrap(),
                1_700_000_000_000_000_000,
                &(),
                &mut segments,
            );
            json.export(&segments).unwrap();
            segments.clear();
        }
    });
    for (what, ns) in [
        ("decode", decoding),
        ("decode, trace", tracing),
        ("decode, trace, json", writing),
    ] {
        let each_ns = ns / (2 * u128::from(ROUNDS));
        println!(
            "{what:20} {each_ns:6} ns an event, {:9} events a second",
            1_000_000_000 / each_ns.max(1)
        );
    }
}

#[expect(clippy::disallowed_methods, reason = "a bench reads the clock")]
fn measure(work: impl FnOnce()) -> u128 {
    let start = std::time::Instant::now();
    work();
    start.elapsed().as_nanos()
}

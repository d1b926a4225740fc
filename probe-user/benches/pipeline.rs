//! The pure middle by itself, and with the queue: what an event takes from bytes to lines of JSON.
//!
//! `cargo bench -p probe-user --bench pipeline`. Each round is one request with one call, in the order in which
//! they come from the kernel.
#![expect(clippy::print_stdout, reason = "it is what a bench is for")]
#![expect(clippy::unwrap_used, reason = "a bench fails aloud")]

use std::{io, sync::Arc, thread, time::Duration};

use probe_user::{
    event::{
        decode,
        recording::{Recorded, Types},
    },
    export::{
        self,
        json::{Json, JsonSettings},
    },
    requests::Requests,
    telemetry::Telemetry,
    trace::{
        Settings, Tracer,
        segment::{Identity, Segment},
    },
};
use rustix::time::{ClockId, clock_gettime};

const ROUNDS: u32 = 300_000;
/// With the queue it goes as it does in the probe: what comes in 10 ms at 50,000 events a second, and a pause.
const DRAIN_RECORDS: usize = 500;
const DRAINS: usize = 300;

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

    let mut spans = 0;
    let tracing = measure(|| {
        trace(&mut tracer, &records, |segments| {
            spans += segments.iter().map(|segment| segment.spans.len()).sum::<usize>();
        });
    });
    assert_eq!(spans, 2 * ROUNDS as usize, "each event is a span");

    let requests = Requests::default();
    let counting = measure(|| {
        trace(&mut tracer, &records, |segments| requests.count(segments));
    });
    let counted: u64 = requests.table().series().map(|(.., series)| series.count()).sum();
    assert_eq!(counted, 2 * u64::from(ROUNDS), "each span is counted");

    let writing = measure(|| {
        trace(&mut tracer, &records, |segments| json.export(segments).unwrap());
    });
    let telemetry = Arc::new(Telemetry::default());
    let (sender, mut receiver) = export::queue(export::QUEUE_SEGMENTS, Arc::clone(&telemetry));
    let accounts = Arc::clone(&telemetry);
    let mut segments = Vec::new();
    let passing = measure(|| {
        let exporter = thread::spawn(move || {
            let mut batch = Vec::new();
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            while runtime.block_on(receiver.recv(&mut batch, 256)) {
                json.export(&batch).unwrap();
                accounts.exported(export::tally_all(&batch));
                batch.clear();
            }
        });
        for _ in 0..DRAINS {
            for record in records.iter().cycle().take(DRAIN_RECORDS) {
                tracer.on_event(
                    &decode(record).unwrap(),
                    1_700_000_000_000_000_000,
                    &(),
                    &mut segments,
                );
            }
            sender.send(&mut segments);
            thread::sleep(Duration::from_millis(10));
        }
        drop(sender);
        exporter.join().unwrap();
    });
    let exported = telemetry.account().exported.spans as usize;
    assert_eq!(exported, DRAINS * DRAIN_RECORDS, "none is lost");

    for (what, ns, events) in [
        ("decode", decoding, 2 * ROUNDS as usize),
        ("decode, trace", tracing, 2 * ROUNDS as usize),
        ("decode, trace, count", counting, 2 * ROUNDS as usize),
        ("decode, trace, json", writing, 2 * ROUNDS as usize),
        ("the same, by the queue", passing, DRAINS * DRAIN_RECORDS),
    ] {
        let each_ns = ns / events as u128;
        println!(
            "{what:23} {each_ns:6} ns an event, {:9} events a second",
            1_000_000_000 / each_ns.max(1)
        );
    }
}

/// Traces both records so many times, and hands over what is finished.
fn trace(tracer: &mut Tracer, records: &[Vec<u8>], mut finished: impl FnMut(&[Segment])) {
    let mut segments = Vec::new();
    for record in records.iter().cycle().take(2 * ROUNDS as usize) {
        tracer.on_event(
            &decode(record).unwrap(),
            1_700_000_000_000_000_000,
            &(),
            &mut segments,
        );
        finished(&segments);
        segments.clear();
    }
}

/// The time that the processors were at it, all threads together: other programs do not count.
fn measure(work: impl FnOnce()) -> u128 {
    let start = clock_gettime(ClockId::ProcessCPUTime);
    work();
    let spent = clock_gettime(ClockId::ProcessCPUTime) - start;
    Duration::try_from(spent).unwrap().as_nanos()
}

//! The messages of gRPC's streams: how many went each way, and when the first and the last did, as the programs that sent
//! and got them have written it down.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails; clippy knows only test functions"
)]

use tests::{
    needs_rpc,
    probe::find_span,
    rpc::{Row, check_shapes},
    segment::Span,
    truth::Side,
};

/// The count, and the times of the first and the last.
fn told(span: &Span, way: &str) -> [Option<u64>; 3] {
    ["", ".first", ".last"].map(|end| {
        let value = span.tag(&format!("rpc.messages.{way}{end}"))?;
        Some(value.parse().unwrap())
    })
}

#[test]
fn both_sides_tell_how_many_went_each_way_and_when() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    // The first question is answered after 60 ms, which is when the second is asked.
    row.ask("many", 1).unwrap();
    let calls = row.calls_of(1).unwrap();
    let call = calls.first().unwrap();
    let front = probe.segment_of("Entry", "/many/1").unwrap();
    let middle = probe.segment_of("Entry", &call.path).unwrap();
    for span in [
        find_span(&front, "Exit", &call.path).unwrap(),
        find_span(&middle, "Entry", &call.path).unwrap(),
    ] {
        let begins = u64::try_from(span.start_time).unwrap();
        let ends = u64::try_from(span.end_time).unwrap();
        for way in ["sent", "received"] {
            let [Some(count), Some(first), Some(last)] = told(span, way) else {
                panic!("{way}: {span:#?}")
            };
            assert_eq!(count, 3, "{way}: {span:#?}");
            assert!(begins <= first && last <= ends, "{way}: {span:#?}");
        }
        let [_, first, last] = told(span, if span.is_exit() { "sent" } else { "received" });
        assert!(last.unwrap() - first.unwrap() >= 59, "{span:#?}");
    }
}

#[test]
fn who_does_not_want_them_counted_has_no_counts() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&["--grpc-messages=false"]).unwrap();
    row.ask("many", 1).unwrap();
    let path = row.calls_of(1).unwrap().first().unwrap().path.clone();
    for (segment, side) in [("/many/1", "Exit"), (&*path, "Entry")] {
        let segment = probe.segment_of("Entry", segment).unwrap();
        let span = find_span(&segment, side, &path).unwrap();
        assert_eq!(span.tag("rpc.status_code"), Some("OK"), "{span:#?}");
        assert_eq!(
            (told(span, "sent"), told(span, "received")),
            ([None; 3], [None; 3])
        );
    }
}

#[test]
fn a_call_of_one_message_each_way_tells_none() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    // Of a registered service: its methods are not served as streams.
    row.ask("relay", 1).unwrap();
    for segment in [
        probe.segment_of("Entry", "/relay/1").unwrap(),
        probe.segment_of("Entry", "/demo.Echo/Unary").unwrap(),
    ] {
        for span in &segment.spans {
            assert_eq!(
                (told(span, "sent"), told(span, "received")),
                ([None; 3], [None; 3])
            );
        }
    }
}

#[test]
fn each_kind_of_stream() {
    needs_rpc!();
    check_shapes(&[
        "upload", "download", "chat", "streams", "handler", "brief", "retry",
    ]);
}

#[test]
fn on_two_goroutines_that_do_not_wait_for_each_other() {
    needs_rpc!();
    let account = check_shapes(&["duplex"; 10]);
    assert_eq!(account.shapes[&(Side::Exit, "duplex".into())].found, 50);
}

#[test]
fn a_message_that_was_not_sent_is_not_counted() {
    needs_rpc!();
    check_shapes(&["overrun", "failed", "late", "abort", "leave", "nobody"]);
}

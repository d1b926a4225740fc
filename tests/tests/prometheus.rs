//! Programs nobody here wrote, stripped, running before the probe: Debian's Prometheus scrapes Debian's node exporter.

use tests::{
    needs_probe,
    probe::Probe,
    scrape::Scrape,
    segment::{Segment, Span},
};

/// The scrape as its two sides tell it: the call of the one, the request of the other that points to it.
fn joined<'s>(
    segments: &'s [Segment],
    exporter: &str,
) -> Option<(&'s Segment, &'s Span, &'s Segment, &'s Span)> {
    segments
        .iter()
        .filter(|segment| segment.service == "prometheus-node-exporter")
        .find_map(|served| {
            let entry = served.entry()?;
            let reference = entry.refs.first()?;
            let calling = segments
                .iter()
                .find(|segment| segment.trace_segment_id == reference.parent_trace_segment_id)?;
            let exit = calling.span(reference.parent_span_id)?;
            (exit.peer == exporter).then_some((calling, exit, served, entry))
        })
}

#[test]
fn a_scrape_is_one_trace() {
    needs_probe!();
    let scrape = Scrape::start().expect("Prometheus scrapes");
    let exporter = scrape.exporter.to_string();
    let probe = Probe::of_pids(&scrape.pids(), &[]).expect("the probe attaches to both");
    let segments = probe
        .wait_for("a scrape seen from both sides", |segments| {
            joined(segments, &exporter).is_some()
        })
        .expect("segments");
    let (calling, exit, served, entry) = joined(&segments, &exporter).expect("it was there a moment ago");

    assert_eq!(
        (calling.service.as_str(), calling.trace_id.as_str()),
        ("prometheus", served.trace_id.as_str())
    );
    assert!(exit.is_exit() && entry.is_entry());
    for span in [exit, entry] {
        assert_eq!(span.operation_name, "GET:/metrics");
        assert_eq!(span.tag("http.method"), Some("GET"));
        assert_eq!(span.tag("http.status_code"), Some("200"));
        assert!(!span.is_error);
    }
    let [reference] = entry.refs.as_slice() else {
        panic!("not one reference: {entry:#?}")
    };
    assert_eq!(reference.ref_type, "CrossProcess");
    assert_eq!(reference.trace_id, calling.trace_id);
    assert_eq!(reference.parent_service, calling.service);
    assert_eq!(reference.parent_service_instance, calling.service_instance);
    assert_eq!(reference.network_address_used_at_peer, exit.peer);
    // The probe stamps both on one clock. A call ends with the response's head, while the server still sends the rest.
    assert!(
        exit.start_time <= entry.start_time && entry.start_time <= exit.end_time,
        "{exit:?} {entry:?}"
    );

    // Hooks are attached one program after the other: what was asked in between may have come without a header. Of
    // all that comes later, nothing.
    let from = entry.start_time;
    let later = |segments: &[Segment]| -> Vec<Span> {
        let served = segments
            .iter()
            .filter(|segment| segment.service == served.service);
        let entries = served
            .filter_map(Segment::entry)
            .filter(|entry| entry.start_time > from);
        entries.cloned().collect()
    };
    let segments = probe
        .wait_for("twenty more scrapes", |segments| later(segments).len() >= 20)
        .expect("segments");
    let orphans: Vec<Span> = later(&segments)
        .into_iter()
        .filter(|entry| entry.refs.is_empty())
        .collect();
    assert!(orphans.is_empty(), "{orphans:#?}");
}

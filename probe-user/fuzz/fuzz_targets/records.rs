//! Any bytes as records of the ring, one after the other, through the decoder and the tracer.
//!
//! The first byte of each says its kind, the next two its length: so that the decoder's first question does not
//! end every try.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use probe_user::{
    event::{Event, decode},
    export::text::{Text, TextSettings},
    trace::{Settings, Tracer, TypeNames, segment::Identity},
};

struct Names;

impl TypeNames for Names {
    fn type_name(&self, _tgid: u32, address: u64) -> Option<String> {
        const NAMES: [&str; 8] = [
            "*net.OpError",
            "*os.SyscallError",
            "syscall.Errno",
            "http.nothingWrittenError",
            "*errors.errorString",
            "tls.alert",
            "*net.DNSError",
            "*a.B",
        ];
        NAMES.get(address as usize % 9).map(|name| (*name).to_owned())
    }
}

fuzz_target!(|bytes: &[u8]| {
    let settings = Settings { debug_tags: true, names_max: 3, held_spans_max: 8 };
    let mut tracer = Tracer::new(settings);
    let mut text = Text::new(Vec::new(), TextSettings { colour: true, width: 80 });
    let (mut events, mut spans, mut stand_ins) = (0, 0, 0);
    let mut rest = bytes;
    while let Some(([kind, low, high], behind)) = rest.split_first_chunk() {
        let len = usize::from(u16::from_le_bytes([*low, *high]) % 2048);
        let (body, after) = behind.split_at(len.min(behind.len()));
        rest = after;
        let tgid = 7u32;
        tracer.add_target(tgid, Arc::new(Identity { service: "shop".into(), instance: "i".into() }));
        let kind = [1u32, 2, 16, 17][usize::from(kind % 4)];
        let mut record = [kind.to_le_bytes(), tgid.to_le_bytes()].concat();
        record.extend(body);
        let mut out = Vec::new();
        if let Ok(event) = decode(&record) {
            events += usize::from(matches!(event, Event::GoNetHttpRequest(_) | Event::GoNetHttpCall(_)));
            tracer.on_event(&event, i64::from(kind as u8) << 55, &Names, &mut out);
        }
        match low % 16 {
            0 => tracer.tick(u64::from(*high) << 56, &mut out),
            1 => tracer.remove_target(tgid, u64::from(*high) << 56),
            _ => {}
        }
        count(&out, &mut spans, &mut stand_ins);
        let _ = text.export(out, 0);
    }
    let mut out = Vec::new();
    tracer.flush(&mut out);
    count(&out, &mut spans, &mut stand_ins);
    let _ = text.export(out, 0);
    let _ = text.flush();
    assert_eq!(events, spans - stand_ins, "each event is a span somewhere");
});

fn count(segments: &[probe_user::trace::segment::Segment], spans: &mut usize, stand_ins: &mut usize) {
    for segment in segments {
        let first = segment.spans.first().expect("a segment has spans");
        assert_eq!((first.id, first.parent_id), (0, -1));
        *spans += segment.spans.len();
        *stand_ins += usize::from(first.kind == probe_user::trace::span::SpanKind::Local);
        for span in &segment.spans {
            assert!(span.end_ns >= span.start_ns && span.operation.is_ascii() && !span.operation.is_empty());
        }
    }
}

//! gRPC that breaks, and a probe that does: no call fails because of the probe, and what fails is told as the program has
//! seen it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test panics where it fails; clippy knows only test functions"
)]

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    thread,
    time::Duration,
};

use tests::{
    http2::{
        self, ACK, Answering, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PREFACE,
        PUSH_PROMISE, RST_STREAM, SETTINGS, frame, literal,
    },
    needs_rpc,
    probe::Probe,
    rpc::{self, PROPAGATED, Row, check},
    scene::truth_program,
    segment::{Segment, Span},
    target::{Load, LoadSummary},
    truth::{self, Record},
};

/// The number at the end of a path; the highest there is where there is none.
fn number(path: &str) -> u64 {
    let end = path.rsplit('/').next().unwrap_or_default();
    end.parse().unwrap_or(u64::MAX)
}

/// Load on the front, of these shapes.
fn load(row: &Row, rate: u32, seconds: f64, shapes: &str) -> Load {
    Load::start(&truth_program().unwrap(), &row.front, rate, seconds, shapes).unwrap()
}

#[track_caller]
fn wait_for_load(probe: &Probe) {
    probe
        .wait_for("the first segments", |segments| segments.len() > 200)
        .unwrap();
}

#[test]
fn killed_under_load_no_call_fails() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let load = load(
        &row,
        200,
        60.0,
        "chain,chat,upload,fanout_ctx,streams,web,baggage",
    );
    for _ in 0..3 {
        let mut probe = row.trace(&[]).unwrap();
        wait_for_load(&probe);
        probe.signal(libc::SIGKILL);
        while probe.runs() {
            thread::sleep(Duration::from_millis(1));
        }
    }
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);

    // The next start works and sees all.
    let probe = row.trace(&[]).unwrap();
    row.ask("chain", 900_001).unwrap();
    let segment = probe.segment_of("Entry", "/chain/900001").unwrap();
    assert_eq!(segment.spans.len(), 2);
}

#[test]
fn another_server_takes_over_and_no_call_fails() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    let load = load(&row, 200, 60.0, "patient,brief");
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(300));
        assert_eq!(row.middle.get("/restart").unwrap().status, 200);
    }
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
    let (account, ended) = row.judge(probe, PROPAGATED).unwrap();
    println!("{account}\n{}", ended.stderr);
    let total = account.total();
    assert_eq!(
        (total.found, account.invented, total.wrong_facts),
        (total.made, 0, 0),
        "{account}"
    );
    assert_eq!(
        (total.parents.wrong, total.parents.orphan, total.references.wrong),
        (0, 0, 0),
        "{account}"
    );
}

#[test]
fn a_thousand_connections_a_second() {
    needs_rpc!();
    let row = Row::start().unwrap();
    // A copy, so that nothing else matches.
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("swarm");
    fs::copy(rpc::program().unwrap(), &program).unwrap();
    let probe = row.trace(&["--exe", program.to_str().unwrap()]).unwrap();
    let load = load(&row, 50, 60.0, "chain,chat,baggage");
    let swarm = Load::swarm(&program, &row.middle, 1000, 3.0).unwrap();
    let summary = swarm.finish().unwrap();
    println!("{summary:?}");
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
    let asked = load.enough().unwrap();
    assert_eq!(asked.failed, 0, "{}", asked.first_error);

    // What the row did beside it is right, and each call of the swarm that came with a header names its own.
    let is_swarm = |path: &str| path.starts_with("/truth.") && number(path) <= summary.sent;
    let records = row.records().unwrap();
    let served = records.iter().filter(|record| is_swarm(&record.path)).count();
    assert_eq!(served as u64, summary.sent);
    let spans = records.len();
    let all_there = |segments: &[Segment]| {
        let of_row = segments.iter().filter(|segment| segment.service != "swarm");
        of_row.map(|segment| segment.spans.len()).sum::<usize>() >= spans
    };
    probe.wait_for("all spans", all_there).unwrap();
    let ended = probe.stop().unwrap();
    println!("{}", ended.stderr);
    let path_of = |segment: &Segment| segment.spans[0].tag("url").unwrap_or_default().to_owned();
    let (swarm, beside): (Vec<Segment>, Vec<Segment>) = ended
        .segments
        .into_iter()
        .partition(|segment| is_swarm(&path_of(segment)));
    let beside_records: Vec<Record> = records
        .into_iter()
        .filter(|record| !is_swarm(&record.path))
        .collect();
    check(&truth::join(&beside_records, &beside, PROPAGATED));

    let calls: HashMap<&str, &Segment> = swarm
        .iter()
        .filter(|segment| segment.service == "swarm")
        .map(|segment| (segment.trace_segment_id.as_str(), segment))
        .collect();
    assert!(!calls.is_empty(), "its calls were not seen at all");
    let referred = swarm.iter().flat_map(|segment| {
        let references = segment.entry().into_iter().flat_map(|entry| &entry.refs);
        references.map(move |reference| (segment, reference))
    });
    let mut joined = 0;
    for (served, reference) in referred {
        let call = calls[reference.parent_trace_segment_id.as_str()];
        assert_eq!(path_of(served), path_of(call));
        joined += 1;
    }
    println!("{joined} of {} calls joined", calls.len());
    assert!(!PROPAGATED || joined > 0);
}

// === Peers that break the rules ===

/// What a server may answer to the request of stream 1, and a few things that it must not.
fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let head = |block: &[u8]| frame(HEADERS, END_HEADERS, 1, block);
    let end = |fields: &[(&str, &str)]| {
        let block: Vec<u8> = fields
            .iter()
            .flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes()))
            .collect();
        frame(HEADERS, END_HEADERS | END_STREAM, 1, &block)
    };
    let answered = |more: &[u8]| [head(&http2::answer()), more.to_vec()].concat();
    let reset = |code: u32| frame(RST_STREAM, 0, 1, &code.to_be_bytes());
    let leave =
        |last: u32, code: u32| frame(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat());
    vec![
        // It has the right to.
        ("RST_STREAM: INTERNAL_ERROR", reset(2)),
        ("RST_STREAM: CANCEL", reset(8)),
        ("RST_STREAM: ENHANCE_YOUR_CALM", reset(11)),
        ("RST_STREAM: INADEQUATE_SECURITY", reset(12)),
        ("RST_STREAM in the middle", answered(&reset(8))),
        ("GOAWAY for this stream", leave(1, 2)),
        (
            "a status",
            end(&[
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "5"),
            ]),
        ),
        // It has not.
        ("no frames", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec()),
        (
            "a frame that never ends",
            frame(DATA, 0, 1, &[0; 64])[..20].to_vec(),
        ),
        (
            "a frame that is too long",
            vec![0xff, 0xff, 0xff, HEADERS, END_HEADERS, 0, 0, 0, 1],
        ),
        ("an index that no table has", head(&[0xff, 0xff, 0xff, 0x7f])),
        ("a number that never ends", head(&[0xff; 64])),
        (
            "a table larger than allowed",
            head(&[0x3f, 0xff, 0xff, 0xff, 0x7f]),
        ),
        (
            "Huffman's code with a wrong end",
            head(&[0, 0x81, 0xff, 0x81, 0xff]),
        ),
        (
            "a block that goes on elsewhere",
            [frame(HEADERS, 0, 1, &[]), frame(DATA, 0, 1, &[])].concat(),
        ),
        (
            "a block that begins in its middle",
            frame(CONTINUATION, END_HEADERS, 1, &[]),
        ),
        (
            "headers after the end",
            [end(&[(":status", "200")]), head(&http2::answer())].concat(),
        ),
        ("data before headers", frame(DATA, 0, 1, &[0, 0, 0, 0, 0])),
        ("data of nobody", frame(DATA, END_STREAM, 99, b"data")),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[0, 0, 0, 2])),
        ("settings of a wrong length", frame(SETTINGS, 0, 0, &[0; 5])),
        ("no status", answered(&end(&[("x", "y")]))),
        (
            "a status that is no number",
            answered(&end(&[("grpc-status", "many")])),
        ),
        (
            "a message longer than told",
            answered(
                &[
                    frame(DATA, 0, 1, &[0, 0, 0, 0, 9, 1]),
                    end(&[("grpc-status", "0")]),
                ]
                .concat(),
            ),
        ),
        (
            "a message in no known coding",
            answered(
                &[
                    frame(DATA, 0, 1, &[1, 0, 0, 0, 1, 1]),
                    end(&[("grpc-status", "0")]),
                ]
                .concat(),
            ),
        ),
        (
            "another type",
            end(&[(":status", "200"), ("content-type", "text/html")]),
        ),
        ("another status", end(&[(":status", "503")])),
        ("too many headers", answered(&end(&[("x", &"x".repeat(16_000))]))),
    ]
}

/// How many calls each answer gets.
const CALLS: u32 = 10;

#[test]
fn whatever_a_server_answers_the_program_has_the_same_answer() {
    needs_rpc!();
    let program = rpc::program().unwrap();
    let answers = answers();
    let servers: Vec<Answering> = answers
        .iter()
        .map(|(_, bytes)| Answering::start(bytes.clone()).unwrap())
        .collect();
    let swarm = |server: &Answering| {
        Load::stopped_swarm_at(&program, server.host(), 200, f64::from(CALLS) / 200.0).unwrap()
    };
    let run = |swarm: Load| -> LoadSummary {
        swarm.resume().unwrap();
        swarm.finish().unwrap()
    };
    let alone: Vec<LoadSummary> = servers.iter().map(|server| run(swarm(server))).collect();
    let swarms: Vec<Load> = servers.iter().map(swarm).collect();
    let pids: Vec<u32> = swarms.iter().map(Load::pid).collect();
    let probe = Probe::of_pids(&pids, &[]).unwrap();
    let mut told: HashMap<&str, &str> = HashMap::new();
    for (((name, _), server), (alone, swarm)) in answers.iter().zip(&servers).zip(alone.iter().zip(swarms)) {
        let traced = run(swarm);
        println!("{name}: {:?}", traced.codes);
        assert_eq!(traced.codes, alone.codes, "{name}");
        assert_eq!(traced.sent, u64::from(CALLS), "{name}");
        told.insert(server.host(), name);
    }
    let all = |segments: &[Segment]| segments.len() >= answers.len() * CALLS as usize;
    probe.wait_for("a span of each call", all).unwrap();
    let ended = probe.stop().unwrap();
    let mut spans: BTreeMap<&str, BTreeMap<String, u64>> = BTreeMap::new();
    for span in ended.segments.iter().flat_map(|segment| &segment.spans) {
        let code = span.tag("rpc.status_code").unwrap_or("none").to_owned();
        *spans
            .entry(told[span.peer.as_str()])
            .or_default()
            .entry(code)
            .or_default() += 1;
    }
    for ((name, _), alone) in answers.iter().zip(&alone) {
        assert_eq!(spans[name], alone.codes, "{name}");
    }
    let total: usize = ended.segments.iter().map(|segment| segment.spans.len()).sum();
    assert_eq!(total, answers.len() * CALLS as usize);
}

/// What a client may send behind the preface, and much that it must not.
fn requests() -> Vec<Vec<u8>> {
    let field = |name: &str, value: &[u8]| literal(name.as_bytes(), value);
    let request = |more: &[u8]| {
        let block = [
            field(":method", b"POST"),
            field(":scheme", b"http"),
            field(":path", b"/truth.unary.leaf/0"),
            field(":authority", b"middle"),
            field("content-type", b"application/grpc"),
            field("te", b"trailers"),
            more.to_vec(),
        ]
        .concat();
        frame(HEADERS, END_HEADERS, 1, &block)
    };
    let message = frame(DATA, END_STREAM, 1, &[0; 5]);
    let with = |name: &str, value: &[u8]| [request(&field(name, value)), message.clone()].concat();
    let many: Vec<u8> = (0..500).flat_map(|_| field("sw8", b"1-a-b-0-c-d-e-f")).collect();
    let block = |bytes: &[u8]| frame(HEADERS, END_HEADERS, 1, bytes);
    let mut rapid = Vec::new();
    for stream in (1..400).step_by(2) {
        let mut head = request(&[]);
        head[5..9].copy_from_slice(&u32::to_be_bytes(stream));
        rapid.extend(head);
        rapid.extend(frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    vec![
        // Our own headers, in every bad way.
        with("sw8", b""),
        with("sw8", b"1"),
        with("sw8", &[b'-'; 900]),
        with("sw8", &[b'A'; 15_000]),
        with("sw8", &[0xff; 300]),
        with("sw8", b"1-====-====-9999999999-====-====-====-===="),
        with("sw8-correlation", &[b'='; 5_000]),
        with("sw8-x", b"1-99999999999999999999999999"),
        with(
            "traceparent",
            b"00-00000000000000000000000000000000-0000000000000000-00",
        ),
        with("traceparent", &[b'f'; 4_000]),
        [request(&many), message.clone()].concat(),
        // Others.
        block(&[0xff, 0xff, 0xff, 0x7f]),
        block(&[0xff; 64]),
        block(&[0x3f, 0xff, 0xff, 0xff, 0x7f]),
        block(&[]),
        [frame(HEADERS, 0, 1, &[0]), frame(HEADERS, END_HEADERS, 3, &[])].concat(),
        frame(CONTINUATION, END_HEADERS, 1, &[]),
        frame(HEADERS, END_HEADERS, 2, &http2::answer()),
        frame(DATA, END_STREAM, 7, b"data"),
        frame(SETTINGS, 0, 0, &[0; 5]),
        frame(SETTINGS, ACK, 0, &[0; 6]),
        vec![0xff; 4_000],
        vec![0xff, 0xff, 0xff, HEADERS, 0, 0, 0, 0, 1],
        request(&[])[..30].to_vec(),
        request(&[]),
        (0..100).flat_map(|_| frame(CONTINUATION, 0, 1, &[])).collect(),
        rapid,
    ]
}

/// Says it, and listens until the server has had enough or says nothing more.
fn say(host: &str, bytes: &[u8]) {
    let mut server = TcpStream::connect(host).unwrap();
    server.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    // The server may hang up before it has heard all.
    let said = [PREFACE, &frame(SETTINGS, 0, 0, &[]), bytes].concat();
    if server.write_all(&said).is_ok() {
        let mut answer = [0; 4096];
        while matches!(server.read(&mut answer), Ok(1..)) {}
    }
    let _ = server.shutdown(Shutdown::Both);
}

#[test]
fn whatever_a_client_says_the_others_are_served_and_told_of() {
    needs_rpc!();
    let row = Row::start().unwrap();
    let probe = row.trace(&[]).unwrap();
    let load = load(&row, 100, 60.0, "chain,chat,upload,duplex,streams");
    for _ in 0..3 {
        for bytes in requests() {
            say(&row.middle.addresses.rpc, &bytes);
        }
    }
    let summary = load.enough().unwrap();
    assert_eq!(summary.failed, 0, "{}", summary.first_error);
    row.ask("chain", 900_001).unwrap();
    let mut records = row.records().unwrap();
    // Those of the loud client have no number.
    records.retain(|record| record.id != 0);
    let spans = records.len();
    let of_others = |segments: &[Segment]| -> Vec<Segment> {
        let is_loud = |span: &Span| span.tag("url") == Some("/truth.unary.leaf/0");
        let others = segments
            .iter()
            .filter(|segment| !segment.spans.iter().any(is_loud));
        others.cloned().collect()
    };
    let all_there = |segments: &[Segment]| {
        let others = of_others(segments);
        others.iter().map(|segment| segment.spans.len()).sum::<usize>() >= spans
    };
    probe.wait_for("all spans", all_there).unwrap();
    let ended = probe.stop().unwrap();
    println!("{}", ended.stderr);
    check(&truth::join(&records, &of_others(&ended.segments), PROPAGATED));
    // What was served is told, too: headers that are no use start new traces.
    let loud = ended.segments.len() - of_others(&ended.segments).len();
    assert!(loud >= 3 * 12, "{loud}");
}

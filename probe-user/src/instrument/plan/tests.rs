//! Plans of real programs, however they were built.

use std::path::Path;

use object::{Object as _, ObjectSymbol as _};

use super::*;
use crate::discover::sample::{CLIENT, SERVER_AND_CLIENT, VARIANTS, build, build_variant};

/// The programs with their places, each once.
fn places(plan: &Plan) -> Vec<(&'static str, Place)> {
    let mut places: Vec<_> = plan.sites.iter().map(|site| (site.program, site.place)).collect();
    places.dedup();
    places
}

const EVERYTHING: [(&str, Place); 13] = [
    ("go_net_http_serve_http", Place::StackCheck),
    ("go_net_http_finish_request", Place::StackCheck),
    ("go_net_http_hijack", Place::StackCheck),
    ("go_net_http_conn_close", Place::StackCheck),
    ("go_net_http_round_trip", Place::StackCheck),
    ("go_net_http_round_trip_success", Place::Success),
    ("go_net_http_round_trip_alternative", Place::Success),
    ("go_net_http_round_trip_return", Place::Return),
    ("go_net_http_persist_conn_round_trip", Place::StackCheck),
    ("go_http2_process_headers", Place::StackCheck),
    ("go_http2_run_handler", Place::StackCheck),
    ("go_http2_handler_end", Place::StackCheck),
    ("go_http2_encode_headers", Place::StackCheck),
];

/// The address that the symbol table has for `runtime.sched.goidgen`.
fn goidgen_by_name(binary: &GoBinary) -> u64 {
    let bytes = std::fs::read(&binary.path).unwrap();
    let file = object::File::parse(&*bytes).unwrap();
    let sched = file
        .symbols()
        .find(|symbol| symbol.name() == Ok("runtime.sched"))
        .unwrap()
        .address();
    let field = ("runtime.schedt", "goidgen");
    sched + offset::dwarf::find(binary.elf(), &[field]).unwrap()[&field]
}

#[test]
fn every_hook_has_its_place_however_the_program_is_built() {
    let directory = tempfile::tempdir().unwrap();
    let mut with_dwarf = None;
    for variant in VARIANTS {
        let binary = build_variant(directory.path(), SERVER_AND_CLIENT, variant);
        let plan = plan(&binary).unwrap();
        let name = variant.0;
        assert_eq!(places(&plan), EVERYTHING, "{name}");
        assert_eq!(plan.refusals, [], "{name}");
        assert!(
            plan.sites
                .iter()
                .all(|site| site.emulated == (site.place != Place::Return)),
            "{name}"
        );
        assert!(plan.goidgen.is_some() && plan.types.is_some(), "{name}");
        assert_eq!(
            (binary.stripped, binary.pie),
            (name.contains("stripped"), name.contains("PIE")),
            "{name}"
        );
        assert_eq!(binary.externally_linked, Some(variant.2), "{name}");
        assert_eq!(plan.may_ask_fionread, variant.2, "{name}");
        assert!(binary.build_id.is_some(), "{name}");
        let mut sources = plan
            .offset_sources
            .iter()
            .map(|(_, source)| source)
            .filter(|source| **source != OffsetSource::NotYet);
        if binary.stripped {
            assert!(sources.all(|source| *source == OffsetSource::Types), "{name}");
            assert_eq!(Some(plan.offsets), with_dwarf, "{name}");
            // The table has been measured on another build, and says the same.
            for (field, source) in &plan.offset_sources {
                let (measured, by_table) = offset::measured(&binary, *field);
                let is_there = *source == OffsetSource::Types;
                assert_eq!(measured.is_some(), is_there, "{field:?} by {by_table:?}");
                assert_eq!(
                    measured,
                    plan.offsets.get(*field).map(|at| at as u16),
                    "{field:?}"
                );
            }
        } else {
            assert!(sources.all(|source| *source == OffsetSource::Dwarf), "{name}");
            assert_eq!(plan.goidgen, Some(goidgen_by_name(&binary)), "{name}");
            with_dwarf = Some(plan.offsets);
        }
    }
}

#[test]
fn a_program_without_a_server_keeps_its_client() {
    let directory = tempfile::tempdir().unwrap();
    let plan = plan(&build(directory.path(), CLIENT, &[], &[])).unwrap();
    let of_client = |program: &str| program.contains("round_trip") || program.contains("encode");
    let wanted: Vec<_> = EVERYTHING
        .into_iter()
        .filter(|(program, _)| of_client(program))
        .collect();
    assert_eq!(places(&plan), wanted);
    assert_eq!(
        plan.absent,
        [
            Part::HttpServer,
            Part::Http2Server,
            Part::XHttp2Server,
            Part::XHttp2Client,
            Part::GrpcServer,
            Part::GrpcClient
        ]
    );
    assert_eq!(plan.refusals, []);
}

#[test]
fn a_program_with_an_agent_is_known_by_it() {
    let directory = tempfile::tempdir().unwrap();
    let tracer = directory.path().join("go2sky");
    std::fs::create_dir(&tracer).unwrap();
    std::fs::write(tracer.join("go.mod"), "module github.com/SkyAPM/go2sky\n").unwrap();
    let source = "package go2sky\n\n//go:noinline\nfunc NewTracer() { println(1) }\n";
    std::fs::write(tracer.join("tracer.go"), source).unwrap();
    std::fs::write(
        directory.path().join("go.work"),
        "go 1.19\nuse (\n\t.\n\t./go2sky\n)\n",
    )
    .unwrap();
    let main = "package main\n\nimport \"github.com/SkyAPM/go2sky\"\n\nfunc main() { go2sky.NewTracer() }\n";
    let plan = plan(&build(directory.path(), main, &[], &[])).unwrap();
    assert_eq!(plan.already_traced.as_deref(), Some("go2sky"));
    assert_eq!(plan.absent, Part::ALL);
}

#[test]
fn arm64_binaries_are_understood() {
    let directory = tempfile::tempdir().unwrap();
    let binary = build(directory.path(), SERVER_AND_CLIENT, &[], &[("GOARCH", "arm64")]);
    let plan = plan(&binary).unwrap();
    let wanted: Vec<_> = EVERYTHING
        .into_iter()
        .filter(|(_, place)| *place != Place::Success)
        .collect();
    assert_eq!(places(&plan), wanted);
    assert!(plan.sites.iter().all(|site| site.emulated));
    assert_eq!(plan.refusals, []);
    assert_eq!(plan.goidgen, Some(goidgen_by_name(&binary)));
}

#[test]
fn a_damaged_binary_is_refused_or_read_but_never_a_panic() {
    let directory = tempfile::tempdir().unwrap();
    let binary = build_variant(directory.path(), SERVER_AND_CLIENT, VARIANTS[4]);
    let whole = std::fs::read(&binary.path).unwrap();
    let read =
        |bytes: Vec<u8>| GoBinary::from_bytes(Path::new("damaged"), bytes).and_then(|binary| plan(&binary));
    for part in 0..40 {
        let length = whole.len() * part / 40;
        // The last parts are data that nobody needs.
        assert!(
            read(whole[..length].to_vec()).is_err() || part > 30,
            "cut to {length} bytes"
        );
    }
    // Where it hurts: headers, build information, the function table's head, moduledata, names and bodies.
    let elf = binary.elf();
    let table = elf.file_offset(binary.function_table()).unwrap();
    let moduledata = elf.file_offset(binary.moduledata.unwrap()).unwrap();
    let sections = u64::from_le_bytes(whole[40..48].try_into().unwrap());
    let buildinfo = elf.section(".go.buildinfo").unwrap().offset;
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let (mut refused, mut planned) = (0, 0);
    for start in [
        0,
        64,
        sections,
        buildinfo,
        table,
        table + 0x1000,
        table + 0x10_0000,
        moduledata,
    ] {
        for _ in 0..12 {
            let mut bytes = whole.clone();
            for _ in 0..3 {
                let at = start as usize + (random() % 256) as usize;
                bytes[at] ^= 1 << (random() % 8);
            }
            match read(bytes) {
                Ok(_) => planned += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0 && planned > 0, "{refused} refused, {planned} planned");
}

#[test]
fn every_field_is_asked_for_by_a_hook() {
    let hooks = go::LIBRARIES.iter().flat_map(|library| library.hooks);
    let mut asked: Vec<GoField> = hooks
        .flat_map(|hook| hook.needs.iter().chain(hook.wants))
        .copied()
        .collect();
    asked.extend(go::runtime::NEEDS.iter().chain(go::runtime::ANCESTRY));
    for field in GoField::ALL {
        assert!(
            asked.contains(field),
            "{field:?} is in the table and nobody reads it"
        );
    }
}

//! Programs for 64-bit ARM: every hook has its place in them, whatever machine looks. What they are like under the probe
//! shows in `cargo xtask vm --processor aarch64`.

#![expect(clippy::unwrap_used, reason = "tests panic, so that the line is shown")]

use std::collections::BTreeSet;

use probe_user::{
    discover::go::GoBinary,
    instrument::{self, Plan, go::LIBRARIES},
};
use tests::{
    go_http2::Package,
    rpc,
    skip::{full, skip},
    target::{Go, GoBuild},
};

/// The programs that are made of more than the standard library, for which `go_versions` looks.
fn builds() -> Vec<GoBuild> {
    let mut builds = vec![rpc::build()];
    if full() {
        builds.extend(Package::ALL.map(Package::build));
    }
    builds
}

fn plan(build: &GoBuild, go: &Go, architecture: &str) -> Plan {
    let path = build.clone().architecture(architecture).build(go).unwrap();
    instrument::plan(&GoBinary::open(&path).unwrap()).unwrap()
}

/// What has a place, but for what only spares x86-64 its expensive returns.
fn programs(plan: &Plan) -> BTreeSet<(&'static str, &'static str)> {
    let hooks = LIBRARIES.iter().flat_map(|library| library.hooks);
    let spares: BTreeSet<_> = hooks
        .filter(|hook| hook.site.is_spared_by_returns())
        .map(|hook| hook.program)
        .collect();
    let sites = plan.sites.iter().filter(|site| !spares.contains(site.program));
    sites.map(|site| (site.program, site.symbol)).collect()
}

#[test]
fn what_has_a_place_on_one_processor_has_one_on_the_other() {
    let go = Go::system().unwrap();
    for build in builds() {
        if let Err(error) = build.fetch(&go) {
            skip(&format!("{error:#}"));
            continue;
        }
        let [x86, arm] = ["amd64", "arm64"].map(|architecture| plan(&build, &go, architecture));
        let name = build.name();
        assert!(!arm.sites.is_empty(), "{name}");
        assert_eq!(programs(&arm), programs(&x86), "{name}");
        assert_eq!(arm.refusals, x86.refusals, "{name}");
        let all = |plan: &Plan| {
            (
                plan.goidgen.is_some(),
                plan.types.is_some(),
                plan.grpc_received_at.is_some(),
            )
        };
        assert_eq!(all(&arm), all(&x86), "{name}");
        let stepped: Vec<_> = arm.sites.iter().filter(|site| !site.emulated).collect();
        assert!(stepped.is_empty(), "{name}: {stepped:?}");
    }
}

//! `deploy/compose.yaml` run by an engine, Podman: its networks, its names, its profiles, its way to read the file.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{collections::BTreeSet, net::Ipv4Addr, time::Duration};

use serde_json::{Value, json};
use tests::{
    container::Granted,
    deploy::{compose, path},
    engine::{self, Engine},
    fake_oap::{FakeOap, FakeSettings},
    needs, needs_rpc,
    network::within_process,
    skip::skip,
};
use xtask::{checkers, image::Image, step::wait_until};

/// The first three numbers of the project's addresses.
const SUBNET: &str = "10.231.78";

/// The file without what is not to be had here: SkyWalking's images, and systemd, which Podman has look at health. Ports
/// of the host are left alone. Names are written into the containers' hosts file: Podman's own server for names lets
/// some wait for half a minute.
fn project() -> Value {
    let mut project = compose(&path("compose.yaml")).unwrap();
    let services = project["services"].as_object_mut().unwrap();
    services.remove("ui").unwrap();
    // One that stays, and in its network stands our own.
    services["oap"] =
        json!({ "image": Image::Demo.name(), "command": ["visitor", "-gateway=http://127.0.0.1:1"] });
    let addresses: Vec<(String, String)> = services
        .keys()
        .zip(10..)
        .map(|(name, number)| (name.clone(), format!("{SUBNET}.{number}")))
        .collect();
    let hosts: Vec<String> = addresses
        .iter()
        .map(|(name, address)| format!("{name}:{address}"))
        .collect();
    for (name, address) in &addresses {
        let service = services[name].as_object_mut().unwrap();
        for key in ["build", "ports"] {
            service.remove(key);
        }
        if let Some(needed) = service.get_mut("depends_on").and_then(Value::as_object_mut) {
            needed
                .values_mut()
                .for_each(|condition| *condition = json!({ "condition": "service_started" }));
        }
        service.insert(
            "networks".to_owned(),
            json!({ "default": { "ipv4_address": address } }),
        );
        service.insert("extra_hosts".to_owned(), json!(hosts));
    }
    let subnet = json!({ "config": [{ "subnet": format!("{SUBNET}.0/24") }] });
    project["networks"]["default"] = json!({ "ipam": subnet, "x-podman.disable_dns": true });
    project
}

#[test]
fn podman_runs_the_demo_and_its_visits_come_to_where_oap_is() {
    needs!(checkers::compose());
    needs_rpc!();
    if let Some(reason) = engine::obstacle() {
        skip(&reason);
        return;
    }
    let project = project();
    let engine = Engine::up(&project, &[Image::Probe, Image::Demo]).unwrap();
    let probe = engine.container("skyprobe");
    let pid = engine.pid("skyprobe").unwrap();
    assert_eq!(Granted::of(pid).unwrap(), Granted::OF_THE_PROBE);

    // Under the name that the file says, and later than the probe.
    let settings = FakeSettings {
        host: Some(Ipv4Addr::UNSPECIFIED),
        port: 11800,
        ..FakeSettings::default()
    };
    let network = engine.pid("oap").unwrap();
    let oap = within_process(network, || Ok(FakeOap::start_with(settings))).unwrap();
    let services = BTreeSet::from(["gateway", "user-service", "order-service"]);
    let whole = || {
        let segments = oap.received().segments;
        let visits = segments.iter().filter(|segment| segment.service == "gateway");
        visits.map(|visit| &visit.trace_id).any(|trace| {
            let joined = segments.iter().filter(|segment| segment.trace_id == *trace);
            let joined: BTreeSet<_> = joined.map(|segment| segment.service.as_str()).collect();
            joined == services
        })
    };
    // The probe waits longer from try to try.
    let came = wait_until(Duration::from_secs(60), whole);
    assert!(
        came,
        "{:#?}",
        ["skyprobe", "gateway", "visitor"].map(|service| engine.log(service))
    );
    let received = oap.received();
    let told = received.segments.iter().map(|segment| segment.service.as_str());
    assert_eq!(told.collect::<BTreeSet<_>>(), services);

    // What the file has an engine ask for health.
    let test = project["services"]["skyprobe"]["healthcheck"]["test"].clone();
    let test: Vec<String> = serde_json::from_value(test).unwrap();
    let Some(("CMD", test)) = test.split_first().map(|(how, test)| (how.as_str(), test)) else {
        panic!("{test:?}")
    };
    let mut exec = vec!["exec", &probe];
    exec.extend(test.iter().map(String::as_str));
    let status = engine.podman(&exec).unwrap();
    for said in [
        &["health    ok", "ready     yes"][..],
        &["gateway", "user-service", "order-service"],
    ]
    .concat()
    {
        assert!(status.contains(said), "{status}");
    }
    assert!(!status.contains("visitor"), "{status}");
    assert!(!status.contains("\nlost "), "{status}");

    engine.podman(&["stop", "--time", "60", &probe]).unwrap();
    let code = engine
        .podman(&["inspect", "--format", "{{.State.ExitCode}}", &probe])
        .unwrap();
    assert_eq!(code, "0");
}

//! `deploy/monitoring`: who may ask the probe for its figures, who does, and what raises an alert.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::Value;
use tests::{
    deploy::{kustomize, kustomize_in, objects, of_kind, path, run},
    kubernetes::Cluster,
    needs, needs_kubernetes,
};
use xtask::{checkers, peers, step::wait_until};

/// The rules as a file for Prometheus.
fn rules() -> Value {
    let file = fs::read_to_string(path("monitoring/prometheusrule.yaml")).unwrap();
    of_kind(&objects(&file).unwrap(), "PrometheusRule").unwrap()["spec"].clone()
}

#[test]
fn each_alert_is_raised_by_what_it_is_for_and_by_nothing_else() {
    needs!(peers::promtool());
    let folder = tempfile::tempdir().unwrap();
    let (rules_file, tests_file) = (folder.path().join("rules.yaml"), folder.path().join("test.yaml"));
    fs::write(&rules_file, rules().to_string()).unwrap();
    let tests = include_str!("deploy_monitoring/rules_test.yaml");
    fs::write(&tests_file, tests).unwrap();
    let promtool = |arguments: &[&str], file: &Path| {
        run(Command::new(peers::promtool().unwrap()).args(arguments).arg(file))
    };
    promtool(&["check", "rules"], &rules_file).unwrap();
    promtool(&["test", "rules"], &tests_file).unwrap();
    for group in rules()["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap() {
            if let Some(name) = rule["alert"].as_str() {
                assert!(
                    tests.contains(&format!("alertname: {name}\n")),
                    "{name} is never raised"
                );
            }
        }
    }
    // It says so when it is not as expected.
    fs::write(
        &tests_file,
        tests.replace("summary: Nothing on b", "summary: Nothing on a"),
    )
    .unwrap();
    promtool(&["test", "rules"], &tests_file).unwrap_err();
}

#[test]
fn the_server_takes_them_by_the_operators_own_definitions_and_they_mean_the_probes_pods() {
    needs!(checkers::prometheus_operator());
    needs_kubernetes!();
    let cluster = Cluster::start().unwrap();
    let base = kustomize("base").unwrap();
    for object in &base {
        cluster.apply(object).unwrap();
    }
    for file in checkers::prometheus_operator().unwrap() {
        let definition = objects(&fs::read_to_string(file).unwrap()).unwrap().remove(0);
        let applied = cluster.apply(&definition).unwrap();
        let at = cluster.administrator().path_of(&applied).unwrap();
        let established = || {
            let now = cluster.administrator().get(&at).unwrap();
            let conditions = now["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            conditions
                .iter()
                .any(|condition| condition["type"] == "Established" && condition["status"] == "True")
        };
        assert!(wait_until(Duration::from_secs(20), established), "{at}");
    }
    let monitoring = kustomize_in(&path("monitoring")).unwrap();
    for object in &monitoring {
        cluster.apply(object).unwrap();
    }
    // A slip is refused.
    let mut slip = of_kind(&monitoring, "PodMonitor").unwrap().clone();
    slip["spec"]["podMetricsEndpoint"] = slip["spec"]["podMetricsEndpoints"].clone();
    let error = format!("{:#}", cluster.apply(&slip).unwrap_err());
    assert!(error.contains("podMetricsEndpoint"), "{error}");

    let template = &of_kind(&base, "DaemonSet").unwrap()["spec"]["template"];
    let policy = &of_kind(&monitoring, "NetworkPolicy").unwrap()["spec"];
    let monitor = &of_kind(&monitoring, "PodMonitor").unwrap()["spec"];
    for selector in [&policy["podSelector"], &monitor["selector"]] {
        let wanted = selector["matchLabels"].as_object().unwrap();
        assert!(!wanted.is_empty());
        for (key, value) in wanted {
            assert_eq!(&template["metadata"]["labels"][key], value, "{key}");
        }
    }
    let port = &template["spec"]["containers"][0]["ports"][0]["name"];
    assert_eq!(port, &policy["ingress"][0]["ports"][0]["port"]);
    assert_eq!(port, &monitor["podMetricsEndpoints"][0]["port"]);
}

//! The two ways to write down the same: `deploy/kubernetes` and the Helm chart.

use std::{collections::BTreeSet, fs, ops::RangeInclusive, path::Path, process::Command};

use serde_json::Value;
use tests::{
    deploy::{comparable, helm, helm_command, kustomize, overlay, path, run},
    needs, needs_kubernetes,
};
use xtask::checkers;

/// A kustomization, and the values by which the chart is to say the same.
const SAME: [(&str, &[&str]); 3] = [
    ("base", &[]),
    ("overlays/privileged", &["privileged=true"]),
    ("overlays/tls", &["oapSecret.name=skyprobe-oap"]),
];

#[test]
fn the_chart_says_what_the_kustomizations_say() {
    needs_kubernetes!();
    for (folder, values) in SAME {
        compare(values, kustomize(folder).unwrap(), folder).unwrap();
    }
    // As docs/deploy.md puts components together.
    let folder = tempfile::tempdir().unwrap();
    let all = overlay(folder.path(), &["tls", "privileged", "openshift"], &[]).unwrap();
    compare(
        &["privileged=true", "oapSecret.name=skyprobe-oap", "openshift=true"],
        all,
        "all components",
    )
    .unwrap();
}

fn compare(values: &[&str], plain: Vec<Value>, name: &str) -> anyhow::Result<()> {
    let mut values = values.to_vec();
    values.push("namespace.create=true");
    let chart = comparable(helm(&values)?)?;
    let plain = comparable(plain)?;
    for (chart, plain) in chart.iter().zip(&plain) {
        assert_eq!(chart, plain, "{name}");
    }
    assert_eq!(chart.len(), plain.len(), "{name}");
    Ok(())
}

#[test]
fn the_chart_is_well_formed_and_refuses_values_that_it_does_not_have() {
    needs_kubernetes!();
    let lint = |set: &[&str]| {
        let mut helm = helm_command().unwrap();
        helm.args(["lint", "--strict"]).arg(path("helm/skyprobe"));
        run(helm
            .args(["--kube-version", xtask::kubernetes::RELEASE])
            .args(set))
    };
    lint(&[]).unwrap();
    for wrong in [
        "privileged=perhaps",
        "rescources.limits.memory=1Gi",
        "oapSecret.cert=x",
        // The kubelet would ask in vain.
        "config.http=127.0.0.1:9465",
    ] {
        let error = lint(&["--set", wrong]).unwrap_err().to_string();
        assert!(
            error.contains("values don't meet the specifications"),
            "{wrong}: {error}"
        );
    }
}

/// The oldest Kubernetes that is promised, and the newest whose schemas there are.
const RELEASES: RangeInclusive<u32> = 30..=37;

/// The API server of the other tests is of one release; the schemas are of all.
#[test]
fn the_manifests_are_those_of_each_kubernetes_that_is_promised() {
    needs!(checkers::kubernetes_schemas());
    needs_kubernetes!();
    let folder = tempfile::tempdir().unwrap();
    let complaints = |objects: &[String], release: u32| {
        let file = folder.path().join("objects.yaml");
        fs::write(&file, objects.join("\n---\n")).unwrap();
        let mut validate = Command::new("python3");
        validate.env("PYTHONPATH", checkers::kubernetes_schemas().unwrap());
        validate.args([
            "-m",
            "kubernetes_validate",
            "--strict",
            "-k",
            &format!("1.{release}"),
        ]);
        let said = validate.arg(&file).output().unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        // One line for each object; what it has no schema for is a warning.
        let good = said.lines().filter(|line| line.starts_with("INFO")).count();
        (said.lines().count() != objects.len() || good != objects.len()).then_some(said)
    };
    let mut objects = BTreeSet::new();
    let mine = tempfile::tempdir().unwrap();
    let all = overlay(mine.path(), &["tls", "privileged", "openshift"], &[]).unwrap();
    objects.extend(all.iter().map(ToString::to_string));
    for folder in ["base", "overlays/privileged", "overlays/tls", "demo"] {
        objects.extend(kustomize(folder).unwrap().iter().map(ToString::to_string));
    }
    objects.extend(
        helm(&["namespace.create=true"])
            .unwrap()
            .iter()
            .map(ToString::to_string),
    );
    let objects: Vec<String> = objects.into_iter().collect();
    for release in RELEASES {
        assert_eq!(complaints(&objects, release), None, "Kubernetes 1.{release}");
    }
    // And of none before: the field by which AppArmor's profile is chosen is new in it.
    let before = complaints(&objects, RELEASES.start() - 1).unwrap_or_default();
    assert!(before.contains("appArmorProfile"), "{before}");
}

#[test]
fn the_dockerfiles_pass_the_linter() {
    needs!(checkers::hadolint());
    let lint = |file: &Path| run(Command::new(checkers::hadolint().unwrap()).arg(file));
    let mut linted = 0;
    for entry in path("").read_dir().unwrap() {
        let file = entry.unwrap().path();
        if file
            .file_name()
            .unwrap()
            .to_string_lossy()
            .ends_with("Dockerfile")
        {
            lint(&file).unwrap();
            linted += 1;
        }
    }
    assert_eq!(linted, 2);
    // It does find what it is for.
    let folder = tempfile::tempdir().unwrap();
    let bad = folder.path().join("Dockerfile");
    fs::write(&bad, "FROM debian\nRUN cd /tmp && sudo true\n").unwrap();
    let error = lint(&bad).unwrap_err().to_string();
    assert!(error.contains("DL3006") && error.contains("DL3004"), "{error}");
}

#[test]
fn each_value_of_the_chart_is_explained() {
    let file = |name: &str| fs::read_to_string(path("helm/skyprobe").join(name)).unwrap();
    let values: Value = serde_yaml_ng::from_str(&file("values.yaml")).unwrap();
    let mut names = BTreeSet::new();
    for (name, value) in values.as_object().unwrap() {
        names.insert(name.clone());
        if let Some(inner) = value.as_object() {
            names.extend(inner.keys().map(|key| format!("{name}.{key}")));
        }
    }
    let page = file("README.md");
    let rows: BTreeSet<&str> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .collect();
    // What is explained as a whole has no rows of its parts, and what has rows for its parts none for the whole.
    for name in &names {
        let whole = name.split('.').next().unwrap_or_default();
        let parts = rows.iter().any(|row| row.starts_with(&format!("{name}.")));
        assert!(
            rows.contains(name.as_str()) || rows.contains(whole) || parts,
            "README.md has no row for {name}"
        );
    }
    for row in rows {
        assert!(
            names.contains(row),
            "README.md explains {row}, which values.yaml does not have"
        );
    }
}

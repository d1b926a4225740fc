//! The two ways to write down the same: `deploy/kubernetes` and the Helm chart.

use std::collections::BTreeSet;

use serde_json::Value;
use tests::{
    deploy::{comparable, helm, helm_command, kustomize, path, run},
    needs_kubernetes,
};

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
        let mut values = values.to_vec();
        values.push("namespace.create=true");
        let chart = comparable(helm(&values).unwrap()).unwrap();
        let plain = comparable(kustomize(folder).unwrap()).unwrap();
        for (chart, plain) in chart.iter().zip(&plain) {
            assert_eq!(chart, plain, "{folder}");
        }
        assert_eq!(chart.len(), plain.len(), "{folder}");
    }
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
    ] {
        let error = lint(&["--set", wrong]).unwrap_err().to_string();
        assert!(
            error.contains("values don't meet the specifications"),
            "{wrong}: {error}"
        );
    }
}

#[test]
fn each_value_of_the_chart_is_explained() {
    let file = |name: &str| std::fs::read_to_string(path("helm/skyprobe").join(name)).unwrap();
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

//! What is deployed: `deploy/kubernetes` as kustomize renders it, the chart as Helm does, and what of both is compared.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde::Deserialize as _;
use serde_json::{Value, json};
use xtask::{checkers, kubernetes};

/// Under which names and where both put the probe.
pub const RELEASE: &str = "skyprobe";

/// Labels that Helm's users want and nobody else.
const HELMS_OWN: [&str; 2] = ["helm.sh/chart", "app.kubernetes.io/managed-by"];

/// A folder or file of `deploy`.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(name)
}

/// The objects of a kustomization below `deploy/kubernetes`.
pub fn kustomize(folder: &str) -> Result<Vec<Value>> {
    kustomize_in(&path("kubernetes").join(folder))
}

/// The objects of an overlay that a user has in a folder somewhere else: of the base, with these components and patches.
pub fn overlay(folder: &Path, components: &[&str], patches: &[Value]) -> Result<Vec<Value>> {
    // Kustomize wants no absolute paths.
    let folder = folder.canonicalize()?;
    let up = "../".repeat(folder.components().count() - 1);
    let below = |name: &str| -> Result<String> {
        let whole = path("kubernetes").join(name).canonicalize()?;
        Ok(format!("{up}{}", whole.strip_prefix("/")?.display()))
    };
    let components = components.iter().map(|name| below(&format!("components/{name}")));
    let patches = patches.iter().map(|patch| json!({ "patch": patch.to_string() }));
    let kustomization = json!({
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "resources": [below("base")?],
        "components": components.collect::<Result<Vec<_>>>()?,
        "patches": patches.collect::<Vec<_>>(),
    });
    fs::write(folder.join("kustomization.yaml"), kustomization.to_string())?;
    kustomize_in(&folder)
}

/// The objects of a kustomization anywhere.
pub fn kustomize_in(folder: &Path) -> Result<Vec<Value>> {
    let mut kustomize = Command::new(kubernetes::programs()?.join("kustomize"));
    objects(&run(kustomize.arg("build").arg(folder))?)
}

/// A Compose file, as Compose itself understands it.
pub fn compose(file: &Path) -> Result<Value> {
    let mut compose = Command::new(checkers::compose()?);
    let text = run(compose.args(["-format", "json"]).arg(file))?;
    Ok(serde_json::from_str(&text)?)
}

/// The objects of the chart, with these values.
pub fn helm(values: &[&str]) -> Result<Vec<Value>> {
    let mut helm = helm_command()?;
    helm.args(["template", RELEASE]).arg(path("helm/skyprobe"));
    // Left to itself it takes the release for one that it was not built with.
    helm.args(["--namespace", RELEASE, "--kube-version", kubernetes::RELEASE]);
    for value in values {
        helm.args(["--set", value]);
    }
    objects(&run(&mut helm)?)
}

/// `helm`, without settings of whoever runs the test.
pub fn helm_command() -> Result<Command> {
    let mut helm = Command::new(kubernetes::programs()?.join("helm"));
    for folder in ["HELM_CACHE_HOME", "HELM_CONFIG_HOME", "HELM_DATA_HOME"] {
        helm.env(folder, std::env::temp_dir());
    }
    helm.env_remove("KUBECONFIG");
    Ok(helm)
}

/// The probe's metrics that the rules of `deploy/monitoring` look at.
pub fn metrics_in_rules() -> Result<BTreeSet<String>> {
    let file = path("monitoring/prometheusrule.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
    let rules = objects(&text)?;
    let groups = of_kind(&rules, "PrometheusRule")?.pointer("/spec/groups");
    let mut metrics = BTreeSet::new();
    for group in groups.and_then(Value::as_array).context("no groups")? {
        for rule in group.get("rules").and_then(Value::as_array).context("no rules")? {
            let expression = rule
                .get("expr")
                .and_then(Value::as_str)
                .context("no expression")?;
            let words = expression.split(|letter: char| !letter.is_alphanumeric() && !"_:".contains(letter));
            let own = words.filter(|word| word.starts_with("skyprobe_") || word.starts_with("process_"));
            metrics.extend(own.map(str::to_owned));
        }
    }
    Ok(metrics)
}

/// What a command says, if it succeeds.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command
        .output()
        .with_context(|| format!("run {}", command.get_program().to_string_lossy()))?;
    let text = String::from_utf8(output.stdout)?;
    if !output.status.success() {
        bail!("{command:?}: {text}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(text)
}

/// The objects of a file with any number of them.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        let object = Value::deserialize(document)?;
        if !object.is_null() {
            objects.push(object);
        }
    }
    ensure!(!objects.is_empty(), "no objects");
    Ok(objects)
}

/// The object of this kind; there is one.
pub fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Result<&'o Value> {
    let mut found = objects
        .iter()
        .filter(|object| object.get("kind").is_some_and(|found| found == kind));
    let object = found.next().with_context(|| format!("no {kind}"))?;
    ensure!(found.next().is_none(), "more than one {kind}");
    Ok(object)
}

/// The objects as they matter: in one order, without what only Helm says, and what is YAML within them as what it says.
pub fn comparable(mut objects: Vec<Value>) -> Result<Vec<Value>> {
    for object in &mut objects {
        strip(object);
        let Some(data) = object.get_mut("data").and_then(Value::as_object_mut) else {
            continue;
        };
        for (name, value) in data {
            if let (true, Some(text)) = (name.ends_with(".yaml"), value.as_str()) {
                *value = serde_yaml_ng::from_str(text).with_context(|| format!("read {name}"))?;
            }
        }
    }
    let key = |object: &Value| {
        let text = |pointer: &str| object.pointer(pointer).map(ToString::to_string);
        (text("/kind"), text("/metadata/namespace"), text("/metadata/name"))
    };
    objects.sort_by_key(key);
    Ok(objects)
}

fn strip(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| !HELMS_OWN.contains(&name.as_str()));
            fields.values_mut().for_each(strip);
        }
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

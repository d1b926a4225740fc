//! The Debian package: installed, upgraded and purged on a machine of its own, with systemd and without.

#![expect(
    clippy::unwrap_used,
    reason = "a test panics where it fails and prints its report; clippy knows only test functions"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use tempfile::TempDir;
use tests::{
    deploy::{path, run},
    machine::Machine,
    needs_probe,
    probe::binary,
    scene::Scene,
    systemd::{Host, SETTINGS},
};
use xtask::{build, debian, package};

/// What dpkg keeps for itself, and what systemd locks to make a user.
const OF_OTHERS: [&str; 3] = ["/var/lib/dpkg/", "/var/log/", "/etc/.pwd.lock"];

/// The package as it is now.
fn current() -> &'static Path {
    static PACKAGE: OnceLock<PathBuf> = OnceLock::new();
    PACKAGE.get_or_init(|| {
        let file = build::target_directory().join("debian/tested.deb");
        package::without_symbols(&file).unwrap();
        file
    })
}

/// A later version of it, with other settings in the file that users edit, if so.
fn later(folder: &Path, version: &str, settings: Option<&str>) -> PathBuf {
    let tree = folder.join("tree");
    run(Command::new("dpkg-deb")
        .arg("--raw-extract")
        .arg(current())
        .arg(&tree))
    .unwrap();
    let control = tree.join("DEBIAN/control");
    let text = fs::read_to_string(&control).unwrap();
    let lines = text.lines().map(|line| match line.strip_prefix("Version: ") {
        Some(_) => format!("Version: {version}\n"),
        None => format!("{line}\n"),
    });
    fs::write(&control, lines.collect::<String>()).unwrap();
    if let Some(settings) = settings {
        fs::write(tree.join(SETTINGS.trim_start_matches('/')), settings).unwrap();
    }
    let file = folder.join(format!("{version}.deb"));
    let mut pack = Command::new("dpkg-deb");
    run(pack
        .args(["--root-owner-group", "-Znone", "--build"])
        .arg(tree)
        .arg(&file))
    .unwrap();
    fs::remove_dir_all(folder.join("tree")).unwrap();
    file
}

/// dpkg on the machine. The index of all its manual pages, which is no business of ours and takes seconds, is left as it
/// is; what images of containers leave out of packages, such as those pages, is not left out.
fn dpkg(machine: &Machine, arguments: &[&str]) {
    let mut dpkg = machine.command("dpkg");
    run(dpkg.args(["--no-triggers", "--path-include=*"]).args(arguments)).unwrap();
}

/// Installs a package, whose file the machine cannot see where it is.
fn install(machine: &Machine, options: &[&str], package: &Path) {
    fs::copy(package, machine.path("/tmp/package.deb")).unwrap();
    dpkg(machine, &[options, &["--install", "/tmp/package.deb"]].concat());
}

/// What is different on the machine, but for what is theirs.
fn left(machine: &Machine) -> BTreeSet<String> {
    let mut changed = machine.changed().unwrap();
    changed.retain(|path| !OF_OTHERS.iter().any(|place| path.starts_with(place)));
    changed
}

/// What the package has for its users.
const FILES: [&str; 10] = [
    SETTINGS,
    "/usr/bin/skyprobe",
    "/usr/lib/systemd/system/skyprobe.service",
    "/usr/share/bash-completion/completions/skyprobe",
    "/usr/share/doc/skyprobe/copyright",
    "/usr/share/doc/skyprobe/skyprobe.yaml",
    "/usr/share/doc/skyprobe/third-party.txt",
    "/usr/share/fish/vendor_completions.d/skyprobe.fish",
    "/usr/share/man/man1/skyprobe.1.gz",
    "/usr/share/zsh/vendor-completions/_skyprobe",
];

#[test]
fn it_is_installed_upgraded_and_purged_where_no_systemd_runs() {
    needs_probe!();
    let folder = TempDir::new().unwrap();
    let machine = Machine::without_systemd().unwrap();
    assert_eq!(left(&machine), BTreeSet::new());
    install(&machine, &[], current());
    let installed = left(&machine);
    for file in FILES {
        assert!(machine.path(file).exists() && installed.contains(file), "{file}");
    }
    let version = machine.run("skyprobe", &["--version"]).unwrap();
    assert!(version.starts_with("skyprobe "), "{version}");
    let kept = machine.run("dpkg-query", &["--show", "--showformat=${Conffiles}", "skyprobe"]);
    assert!(kept.unwrap().contains(SETTINGS));

    // Nobody has chosen anything yet, and everything that is shown would be a choice.
    let as_shipped = fs::read_to_string(machine.path(SETTINGS)).unwrap();
    let refused = machine
        .run("skyprobe", &["run", "--config", SETTINGS])
        .unwrap_err();
    assert!(
        format!("{refused:#}").contains("nothing is selected"),
        "{refused:#}"
    );
    assert!(
        as_shipped
            .lines()
            .all(|line| line.is_empty() || line.starts_with('#'))
    );

    // What nobody has edited is ours to change.
    let changed = format!("{as_shipped}\n# New.\n");
    install(&machine, &[], &later(folder.path(), "0.2.0-1", Some(&changed)));
    assert_eq!(fs::read_to_string(machine.path(SETTINGS)).unwrap(), changed);
    // What somebody has edited is his: nothing is asked as long as ours does not change, and if it does, he decides.
    let edited = format!("{changed}all_go: true\n");
    fs::write(machine.path(SETTINGS), &edited).unwrap();
    install(&machine, &[], &later(folder.path(), "0.3.0-1", Some(&changed)));
    assert_eq!(fs::read_to_string(machine.path(SETTINGS)).unwrap(), edited);
    let other = format!("{as_shipped}\n# Newer.\n");
    let newest = later(folder.path(), "0.4.0-1", Some(&other));
    install(&machine, &["--force-confold"], &newest);
    assert_eq!(fs::read_to_string(machine.path(SETTINGS)).unwrap(), edited);

    dpkg(&machine, &["--remove", "skyprobe"]);
    assert_eq!(fs::read_to_string(machine.path(SETTINGS)).unwrap(), edited);
    assert!(!machine.path("/usr/bin/skyprobe").exists());
    dpkg(&machine, &["--purge", "skyprobe"]);
    assert_eq!(left(&machine), BTreeSet::new());
}

/// Uncomments the lines of the settings that begin so.
fn choose(settings: &str, beginnings: &[&str]) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if beginnings.iter().any(|it| rest.starts_with(it)) => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    settings.lines().map(line).collect()
}

#[test]
fn what_the_settings_show_is_understood() {
    needs_probe!();
    let shipped = fs::read_to_string(path("debian/skyprobe.yaml")).unwrap();
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("skyprobe.yaml");
    let chosen = choose(
        &shipped,
        &["oap:", "rules:", "  - include", "port:", "exe:", "all_go:"],
    );
    assert_eq!(
        chosen
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'))
            .count(),
        6
    );
    fs::write(&file, chosen).unwrap();
    let mut check = Command::new(binary().unwrap());
    run(check.arg("check").arg(&file)).unwrap();
}

#[test]
fn its_service_is_started_by_hand_and_again_after_an_upgrade() {
    needs_probe!();
    let folder = TempDir::new().unwrap();
    let scene = Scene::start().unwrap();
    let host = Host::new("").unwrap();
    // What images of containers have, to keep services from being started in them.
    let _it_may_lack_it = fs::remove_file(host.machine.path("/usr/sbin/policy-rc.d"));
    let before = left(&host.machine);
    install(&host.machine, &[], current());
    assert_eq!(host.property("ActiveState").unwrap(), "inactive");
    assert!(host.control("start").is_err());
    assert!(host.words().contains("nothing is selected"), "{}", host.words());
    let enabled = host
        .machine
        .path("/etc/systemd/system/multi-user.target.wants/skyprobe.service");
    assert!(!enabled.exists());

    host.choose(&scene).unwrap();
    host.control("start").unwrap();
    host.traces(&scene, 1).unwrap();
    let pid = host.property("MainPID").unwrap();
    install(&host.machine, &[], &later(folder.path(), "0.2.0-1", None));
    host.wait_for_words("ready", 2).unwrap();
    assert_ne!(host.property("MainPID").unwrap(), pid);
    host.traces(&scene, 2).unwrap();
    assert!(!host.words().contains("lost"), "{}", host.words());

    dpkg(&host.machine, &["--remove", "skyprobe"]);
    assert_eq!(host.property("ActiveState").unwrap(), "inactive");
    dpkg(&host.machine, &["--purge", "skyprobe"]);
    assert_eq!(left(&host.machine), before);
    // Who was traced goes on.
    scene.ask("sync", 3).unwrap();
}

/// `$1` and what follows are what is typed, a tabulator at its end; what the shell makes of it is on stdout.
const ZSH: &str = r#"
zmodload zsh/zpty
zpty shell zsh -f -i
zpty -w shell 'autoload -Uz compinit; compinit -D -u; PS1=RE"ADY "'
zpty -r -m shell said '*READY *'
zpty -n -w shell "$1"$'\t\C-u'"print DO""NE"$'\n'
zpty -r -m shell said '*DONE*'
print -r -- "$said"
"#;

#[test]
fn shells_complete_its_command_line() {
    needs_probe!();
    for shell in ["zsh", "fish"] {
        debian::ensure_program(shell, shell, "a shell whose completions are tried").unwrap();
    }
    let machine = Machine::without_systemd().unwrap();
    install(&machine, &[], current());
    let script = ". /usr/share/bash-completion/completions/skyprobe; COMP_WORDS=(skyprobe run --log \"\"); \
                  COMP_CWORD=3; _skyprobe skyprobe \"\" --log; echo \"${COMPREPLY[@]}\"";
    let levels = machine.run("bash", &["-c", script]).unwrap();
    assert_eq!(levels.trim(), "error warn info debug trace");
    let levels = machine
        .run("fish", &["-c", "complete -C 'skyprobe run --log '"])
        .unwrap();
    let levels: BTreeSet<&str> = levels.lines().collect();
    assert_eq!(
        levels,
        BTreeSet::from(["error", "warn", "info", "debug", "trace"])
    );
    let typed = machine
        .run(
            "timeout",
            &["30", "zsh", "-f", "-c", ZSH, "zsh", "skyprobe run --exp"],
        )
        .unwrap();
    assert!(typed.contains("skyprobe run --export"), "{typed:?}");
}

#[test]
fn its_scripts_are_sound() {
    needs_probe!();
    debian::ensure_program("shellcheck", "shellcheck", "what checks shell scripts").unwrap();
    let folder = TempDir::new().unwrap();
    run(Command::new("dpkg-deb")
        .arg("--control")
        .args([current(), folder.path()]))
    .unwrap();
    let mut shellcheck = Command::new("shellcheck");
    for script in ["postinst", "prerm", "postrm"] {
        shellcheck.arg(folder.path().join(script));
    }
    run(&mut shellcheck).unwrap();
}

#[test]
fn nothing_is_wrong_with_it_by_debians_rules() {
    needs_probe!();
    debian::ensure_program("lintian", "lintian", "what checks packages").unwrap();
    let mut lintian = Command::new("lintian");
    lintian.args(["--allow-root", "--fail-on", "error,warning"]);
    run(lintian.arg(current())).unwrap();
    // What is new is said of this version.
    let version = run(Command::new("dpkg-deb")
        .arg("--field")
        .arg(current())
        .arg("Version"))
    .unwrap();
    let changelog = fs::read_to_string(path("debian/changelog")).unwrap();
    assert!(
        changelog.starts_with(&format!("skyprobe ({}) ", version.trim())),
        "{version}"
    );
}

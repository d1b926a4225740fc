//! What is wrong gets one sentence: the thing, its place, the way out.

use std::os::unix::ffi::OsStringExt as _;

use super::*;

#[test]
fn wrong_values_are_named_with_their_place_and_what_is_allowed() {
    let flags = |flags: &[&str]| complaint(run(flags, &[], None));
    assert_eq!(
        flags(&["--port", "70000"]),
        "\"70000\" in --port is not a TCP port: a whole number from 1 to 65535"
    );
    assert_eq!(
        flags(&["--port", "80,81"]),
        "\"80,81\" in --port is not a TCP port: repeat the setting for each of them"
    );
    assert_eq!(
        flags(&["--pid", "x"]),
        "\"x\" in --pid is not a process id: a whole number from 1 to 4194304"
    );
    assert_eq!(
        flags(&["--all-go", "--export", "xml"]),
        "\"xml\" in --export is not one of: text | json | skywalking"
    );
    assert!(flags(&["--exe", "a[b"]).starts_with("\"a[b\" in --exe is not a glob: "));
    for wrong in [
        "oap",
        "oap:",
        ":11800",
        "oap:0",
        "oap:99999",
        "http://oap:11800",
        "::1:11800",
        "[::1]",
        ",",
    ] {
        let sentence = flags(&["--all-go", "--oap", wrong]);
        assert!(
            sentence.starts_with(&format!("{wrong:?} in --oap is not a list of addresses")),
            "{sentence}"
        );
    }
    let sentence = complaint(run(&["--all-go"], &[("SW_AGENT_FORCE_TLS", "maybe")], None));
    assert_eq!(
        sentence,
        "\"maybe\" in SW_AGENT_FORCE_TLS in the environment is not one of: true | false"
    );
    let sentence = complaint(run(&["--all-go"], &[], Some("heartbeat_s: 0")));
    assert!(sentence.starts_with("\"0\" in heartbeat_s in /"), "{sentence}");
    assert!(
        sentence.ends_with("/skyprobe.yaml:1 is not a time in seconds: a whole number from 1 to 60"),
        "{sentence}"
    );
    let sentence = complaint(run(&["--all-go"], &[], Some("tls_ca: [/a, /b]")));
    assert!(
        sentence.ends_with("/skyprobe.yaml:1 takes one value and not a list"),
        "{sentence}"
    );
    let sentence = complaint(run(&["--all-go"], &[], Some("propagate: [sw8, b3]")));
    assert!(sentence.starts_with("\"sw8,b3\" in propagate in /"), "{sentence}");
}

#[test]
fn tokens_are_not_shown() {
    let with = |token| run(&["--all-go"], &[("SW_AGENT_AUTHENTICATION", token)], None);
    assert!(!format!("{:?}", with("sesame").unwrap()).contains("sesame"));
    let sentence = complaint(with("sécret"));
    assert!(
        !sentence.contains("cret\"") && sentence.contains("SW_AGENT_AUTHENTICATION"),
        "{sentence}"
    );
    let odd = OsString::from_vec(b"sesame\xff".to_vec());
    let arguments = ["skyprobe", "run", "--all-go"].map(OsString::from);
    let sentence = complaint(read(arguments, &|name| {
        (name == "SW_AGENT_AUTHENTICATION").then(|| odd.clone())
    }));
    assert!(
        !sentence.contains("sesame") && sentence.contains("UTF-8"),
        "{sentence}"
    );
    let sentence = complaint(run(&["--all-go", "--authentication=sesame"], &[], None));
    assert!(
        !sentence.contains("sesame") && sentence.contains("--authentication-file"),
        "{sentence}"
    );
}

#[test]
fn what_does_not_fit_together() {
    assert_eq!(
        complaint(run(&[], &[], None)),
        "nothing is selected: say what to trace with --pid, --exe, --port, --all-go or a rule that includes"
    );
    let token = [("SW_AGENT_AUTHENTICATION", "sesame")];
    assert_eq!(
        complaint(run(&["--all-go", "--authentication-file=/t"], &token, None)),
        "SW_AGENT_AUTHENTICATION in the environment and --authentication-file say the same thing twice: leave one of \
         them out"
    );
    assert_eq!(
        complaint(run(&["--all-go", "--tls-cert=/c"], &[], None)),
        "--tls-cert needs --tls-key too"
    );
    let sentence = complaint(run(&["--all-go", "--oap=a:1", "--output=/o"], &[], None));
    assert_eq!(
        sentence,
        "--output has no effect, since --oap sends all to SkyWalking: leave one of them out, or export text or json"
    );
    let sentence = complaint(run(&["--all-go"], &[], Some("output: /o\nexport: skywalking\n")));
    assert!(
        sentence.starts_with("output in /")
            && sentence.contains(":1 has no effect, since export in /")
            && sentence.contains(":2 sends all to SkyWalking"),
        "{sentence}"
    );
    let sentence = complaint(run(&["--all-go"], &[], Some("tls_cert: /c\n")));
    assert!(sentence.ends_with(":1 needs tls_key too"), "{sentence}");
}

#[test]
fn an_unknown_key_is_named_with_its_file_and_the_nearest_one() {
    for (written, nearest) in [
        ("exprot", "export"),
        ("all-go", "all_go"),
        ("--port", "port"),
        ("tls_cacert", "tls_cert"),
        ("pids", "pid"),
    ] {
        let sentence = complaint(run(&["--all-go"], &[], Some(&format!("{written}: 1"))));
        assert!(
            sentence.starts_with(&format!("unknown key {written:?} in /")),
            "{sentence}"
        );
        assert!(
            sentence.ends_with(&format!("/skyprobe.yaml:1: did you mean {nearest:?}?")),
            "{sentence}"
        );
    }
    let sentence = complaint(run(&["--all-go"], &[], Some("zzz: 1")));
    assert!(
        sentence.ends_with("docs/configuration.md lists the keys"),
        "{sentence}"
    );
}

#[test]
fn files_that_are_none() {
    let file = |text: &str| complaint(run(&["--all-go"], &[], Some(text)));
    assert!(file("log: info\npid: ]").contains("/skyprobe.yaml:2 is not YAML that is read here: "));
    assert!(file("just words").contains("it must hold lines of the form `key: value`"));
    assert!(file("\noap: {a: 1}").contains("/skyprobe.yaml:2 must be a single value or a list of them"));
    assert!(file("pid: 1\n\npid: 2").ends_with(
        "/skyprobe.yaml:3 is not YAML that is read here: \"pid\" stands here again, and first in line 1"
    ));
    assert!(
        file("pid: 1\n\0\nexe: a").contains("/skyprobe.yaml:2 is not YAML that is read here: a character")
    );
    assert!(file("pid: &a 1").contains("anchors and aliases are not read"));
    assert!(run(&["--all-go"], &[], Some("# nothing yet\n")).is_ok());
    let service = |text: &str| run(&["--all-go"], &[], Some(text)).unwrap().naming.service;
    assert_eq!(service("service:\n"), None);
    assert_eq!(service("service: ~\n"), None);
    assert_eq!(service("service: '~'\n").as_deref(), Some("~"));
    // As it was written: a number that is a name keeps its digits.
    assert_eq!(service("service: 1.10").as_deref(), Some("1.10"));
    let sentence = complaint(call(&["run", "--all-go", "--config", "/nonexistent/c.yaml"], &[]));
    assert!(sentence.starts_with("cannot read the configuration file /nonexistent/c.yaml: No such file"));
}

#[test]
fn a_wrong_rule_is_named_with_its_line() {
    let rules = |rules: &str| {
        let sentence = complaint(run(
            &["--all-go"],
            &[],
            Some(&format!("log: info\nrules:\n{rules}")),
        ));
        let (_, end) = sentence
            .split_once("/skyprobe.yaml:")
            .unwrap_or_else(|| panic!("{sentence}"));
        end.to_owned()
    };
    for (written, said) in [
        (
            " - all",
            "3: a rule is `include:` or `exclude:`, one of them, with conditions below it, such as `- include: {exe: \"gateway*\"}`",
        ),
        (
            " - include: {exe: a}\n   exclude: {exe: b}",
            "3: a rule is `include:` or `exclude:`, one of them, with conditions below it, such as `- include: {exe: \"gateway*\"}`",
        ),
        (
            " - exe: a",
            "3: a rule is `include:` or `exclude:`, one of them, with conditions below it, such as `- include: {exe: \"gateway*\"}`",
        ),
        (
            " - include: {port: \"80,81\"}",
            "3 is not a TCP port: give a list of them, such as [8080, 8081]",
        ),
        (" - includes: {exe: a}", "3: did you mean \"include\"?"),
        (" - include:\n     namepsace: a", "4: did you mean \"namespace\"?"),
        (
            " - include:\n     exe:",
            "4: exe has no value, so that no process meets the rule: give one, or leave it out",
        ),
        (
            " - include: {port: 70000}",
            "3 is not a TCP port: a whole number from 1 to 65535",
        ),
        (" - include: {language: cobol}", "3 is not one of: go"),
        (
            " - include: {pod_label: =a}",
            "3 is not of the form key or key=value, such as tier=web",
        ),
        (
            " - exclude:\n - include: {exe: a}",
            "4: this rule is never reached: the one in line 3 decides for all that come to it",
        ),
        (
            " include: {exe: a}",
            "3: `rules` is a list: begin each rule with `- include:` or `- exclude:`",
        ),
    ] {
        assert_eq!(rules(written), said, "{written}");
    }
    assert!(rules(" - include: {exe: \"a[\"}").contains("3 is not a glob: "));
    // Rules that only leave out select nothing.
    let only = Some("rules:\n - exclude: {exe: a}");
    assert!(complaint(run(&[], &[], only)).starts_with("nothing is selected"));
}

#[test]
fn wrong_command_lines_are_one_sentence() {
    let usage = |arguments: &[&str]| complaint(call(arguments, &[]));
    let expected = [
        (
            &["run", "--prot", "1"][..],
            "unknown option --prot, did you mean --port?",
        ),
        (&["run", "--zzzzz"], "unknown option --zzzzz"),
        (&["rum"], "unknown command \"rum\", did you mean run?"),
        (&[], "say what to do: run, status, check, inspect or doctor"),
        (&["run", "extra"], "unexpected argument \"extra\""),
        (&["inspect"], "missing argument <PATH|PID>"),
        (
            &["run", "--service", "a", "--service", "b"],
            "--service <NAME> may be given only once",
        ),
        (&["run", "--port"], "--port <N> needs a value"),
    ];
    for (arguments, sentence) in expected {
        assert_eq!(
            usage(arguments),
            format!("{sentence}; see `skyprobe --help`"),
            "{arguments:?}"
        );
    }
}

#[test]
fn each_way_to_sample_has_its_own_settings() {
    for (flags, sentence) in [
        (
            &["--sampling=constant"][..],
            "--sampling (constant) needs --sample-rate too",
        ),
        (
            &["--sampling=adaptive", "--sample-rate=0.1"],
            "--sample-rate has no effect with --sampling (adaptive): leave one of them out",
        ),
        (
            &["--sample-rate=0.1", "--sample-n-per-3-secs=3"],
            "--sample-n-per-3-secs has no effect with --sample-rate: leave one of them out",
        ),
        (
            &["--sample-rate=10%"],
            "\"10%\" in --sample-rate is not a ratio: a number from 0 to 1, such as 0.1",
        ),
        (
            &["--keep-slower-than=500"],
            "\"500\" in --keep-slower-than is not a time with its unit, such as 500ms or 2s",
        ),
        (
            &["--sample-paths=/a*b=1"],
            "\"/a*b=1\" in --sample-paths is not a path of at most 63 bytes and a ratio, such as /health=0 or \
             /static/*=0.01",
        ),
    ] {
        assert_eq!(
            complaint(run(&[flags, &["--all-go"]].concat(), &[], None)),
            sentence
        );
    }
    for (text, end) in [
        ("sampling: constant\n", ":1 (constant) needs sample_rate too"),
        ("\nburst_size: 3\n", ":2 needs rate_per_second too"),
    ] {
        let sentence = complaint(run(&["--all-go"], &[], Some(text)));
        assert!(sentence.ends_with(end), "{sentence}");
    }
}

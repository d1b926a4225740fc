//! Go programs for tests, built with the machine's Go.

use std::{path::Path, process::Command};

use crate::discover::go::GoBinary;

/// It serves, calls, and takes connections over.
pub(crate) const SERVER_AND_CLIENT: &str = r#"package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/taken" {
			w.(http.Hijacker).Hijack()
			return
		}
		if response, err := http.Get(r.URL.Query().Get("next")); err == nil {
			io.Copy(w, response.Body)
		}
	})
	http.ListenAndServe(os.Args[1], nil)
}
"#;

/// It only calls.
pub(crate) const CLIENT: &str = r#"package main

import (
	"net/http"
	"os"
)

func main() { http.Get(os.Args[1]) }
"#;

/// Ways to build a program that make different binaries.
pub(crate) const VARIANTS: [(&str, &[&str], bool); 7] = [
    ("plain", &[], false),
    ("uncompressed DWARF", &["-ldflags=-compressdwarf=false"], false),
    ("stripped", &["-ldflags=-s -w"], false),
    ("PIE", &["-buildmode=pie"], false),
    ("stripped PIE", &["-buildmode=pie", "-ldflags=-s -w"], false),
    ("external linking", &["-ldflags=-linkmode=external"], true),
    (
        "stripped PIE, external linking",
        &["-buildmode=pie", "-ldflags=-linkmode=external -s -w"],
        true,
    ),
];

/// Builds a program at `directory/program`.
#[expect(clippy::disallowed_methods, reason = "the tests' runner names the Go to use")]
pub(crate) fn build(
    directory: &Path,
    source: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> GoBinary {
    std::fs::write(directory.join("main.go"), source).unwrap();
    std::fs::write(directory.join("go.mod"), "module example/web\n\ngo 1.19\n").unwrap();
    let go = std::env::var_os("SKYPROBE_GO").unwrap_or_else(|| "go".into());
    let output = Command::new(go)
        .current_dir(directory)
        .envs([
            ("CGO_ENABLED", "0"),
            ("GOTOOLCHAIN", "local"),
            ("GOFLAGS", "-buildvcs=false"),
        ])
        .envs(environment.iter().copied())
        .args(["build", "-o", "program"])
        .args(arguments)
        .arg(".")
        .output()
        .expect("these tests build Go programs: install Go");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    GoBinary::open(&directory.join("program")).unwrap()
}

/// Builds one of the [`VARIANTS`].
pub(crate) fn build_variant(
    directory: &Path,
    source: &str,
    (_, arguments, cgo): (&str, &[&str], bool),
) -> GoBinary {
    build(
        directory,
        source,
        arguments,
        &[("CGO_ENABLED", if cgo { "1" } else { "0" })],
    )
}

//! The binary's command line. That this folder has a test also makes `cargo test --workspace` build the binary, which
//! the integration tests start.

#![allow(clippy::unwrap_used)]

use std::process::{Command, Output};

fn run(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_omma-shard")).args(arguments).output().unwrap()
}

#[test]
fn help_names_the_flags() {
    let output = run(&["--help"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    for flag in
        ["--listen", "--advertise", "--data", "--peers", "--groups", "--replication", "--onnxruntime", "--device"]
    {
        assert!(said.contains(flag), "no {flag}: {said}");
    }
}

#[test]
fn an_unknown_flag_is_refused_with_a_hint() {
    let output = run(&["--no-such-flag"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("--no-such-flag") && said.contains("--help"), "{said}");
}

#[test]
fn a_port_for_other_machines_is_not_opened_without_tls() {
    let output = run(&["--data", "/nonexistent/omma", "--listen", "0.0.0.0:0"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["0.0.0.0", "-tls-cert", "-tls-key", "--insecure-plaintext"] {
        assert!(said.contains(part), "no {part}: {said}");
    }
}

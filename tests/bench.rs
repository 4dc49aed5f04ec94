//! The bench (`tests/bench`): what it makes of figures, and that it runs.
//!
//! In: its Python files and the binary under test. Out: its own unit tests pass, and it measures some scenarios of each
//! kind of load. Nothing here judges speed: that takes a quiet machine and a release build.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::kit::{binary, need};

fn place() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench")
}

#[test]
fn it_judges_and_reports_as_its_unit_tests_say() {
    let Some(python) = need("python3") else { return };
    let output = Command::new(python)
        .args(["-B", "-m", "unittest", "discover", "-s"])
        .arg(place())
        .output()
        .expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nOK"), "{said}");
}

/// weir against itself, with itself behind it: wrk, h2load and the clients and upstreams of the bench's own.
#[test]
fn it_measures() {
    let Some(python) = need("python3") else { return };
    for program in ["wrk", "h2load", "curl"] {
        if need(program).is_none() {
            return;
        }
    }
    let floor = binary().with_file_name("examples/floor");
    if !floor.exists() {
        eprintln!(
            "NOT TESTED: the bench's floor, for {} is not there; cargo test without --test builds it",
            floor.display()
        );
    }
    let mut said = String::new();
    // On a machine that has no time for it, a load may end before it has asked anything; then it takes longer.
    for seconds in ["0.3", "3", "10"] {
        let mut command = Command::new(&python);
        command.arg("-B").arg(place().join("bench.py"));
        for side in ["--a", "--b", "--nginx"] {
            command.arg(side).arg(binary());
        }
        if floor.exists() {
            command.arg("--floor").arg(&floor);
        }
        command.args(["--only", "static-1k,proxy-1k-keepalive,h2c-1k,ws-echo", "--rounds", "1", "--seconds", seconds]);
        let output = command.output().expect("python3 runs");
        said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if output.status.success() {
            for scenario in ["static-1k", "proxy-1k-keepalive", "h2c-1k", "ws-echo"] {
                let row = said.lines().rev().find(|line| line.starts_with(&format!("{scenario} ")));
                assert!(row.is_some_and(|row| row.matches(" µs").count() == 2), "{scenario} has no figures:\n{said}");
            }
            assert_eq!(said.matches("; the floor: ").count(), if floor.exists() { 2 } else { 0 }, "{said}");
            return;
        }
        if !said.contains("0 of 0 requests failed") {
            break;
        }
    }
    panic!("{said}");
}

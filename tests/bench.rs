//! The bench (`tests/bench`): what it makes of figures, and that it runs.
//!
//! In: the Python files and the binary under test. Out: their own unit tests pass. Nothing here judges speed: that takes a
//! quiet machine and a release build.

use std::path::Path;
use std::process::Command;

use crate::kit::need;

#[test]
fn the_bench_judges_and_reports_as_its_unit_tests_say() {
    let Some(python) = need("python3") else { return };
    let place = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bench");
    let mut command = Command::new(python);
    command.args(["-B", "-m", "unittest", "discover", "-s"]).arg(&place);
    let output = command.output().expect("python3 runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("\nOK"), "{said}");
}

#!/usr/bin/env python3
"""Measures two servers that read nginx.conf against each other. README.md beside this file says how.

    bench.py --a target/release/weir --b nginx                   everything: some 20 minutes, ten of them mixed load
    bench.py --a target/release/weir --b nginx --only static-1k,proxy*
    bench.py --a target/release/weir --b nginx --write           and puts table and picture where README.md shows them
    bench.py --from FILE --write                                 the same from figures that are there already
"""

import argparse
import fnmatch
import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import measure
import report
from scenarios import SCENARIOS, Scenario
from servers import Directory, Fault

PROJECT = Path(__file__).resolve().parents[2]
PICTURE = PROJECT / "docs/bench.svg"
README = PROJECT / "README.md"

PROGRAMS = ("wrk", "h2load", "curl", "taskset")


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--a", metavar="BINARY", help="the server that has the targets")
    options.add_argument("--b", metavar="BINARY", help="the server it is compared with")
    options.add_argument("--only", metavar="NAMES", default="*", help="scenarios by name, with commas; * as in a shell")
    options.add_argument("--list", action="store_true", help="say which scenarios there are")
    options.add_argument("--rounds", type=int, default=5, help="pairs of each scenario (5)")
    options.add_argument("--seconds", type=float, default=1.0, help="how long a load lasts (1)")
    options.add_argument("--minutes", type=float, default=10.0, help="how long the mixed load lasts (10)")
    options.add_argument("--nginx", metavar="BINARY", default="nginx", help="what is behind the servers (nginx)")
    options.add_argument("--floor", metavar="BINARY", help="the floor (README.md): what the system calls alone take")
    options.add_argument("--nice", type=int, default=0, help="priority of servers and loads; below 0 needs root")
    options.add_argument("--tmp", metavar="DIRECTORY", help="where files are kept meanwhile; /dev/shm takes the disk out")
    options.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    options.add_argument("--from", metavar="FILE", type=Path, dest="source", help="measure nothing, report these figures")
    options.add_argument("--write", action="store_true", help="put table and picture into README.md and docs/bench.svg")
    chosen = options.parse_args()

    if chosen.list:
        for scenario in SCENARIOS:
            print(f"{scenario.name:<26}{scenario.about}")
        return 0
    if chosen.source:
        result = json.loads(chosen.source.read_text())
    elif chosen.write and chosen.only != "*":
        options.error("--write is for all scenarios, or for the figures of --from")
    elif chosen.a and chosen.b:
        result = run(chosen)
    else:
        options.error("--a and --b say what to measure")
    print(f"\n{report.table(result)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(result, indent=1) + "\n")
    if chosen.write:
        README.write_text(report.put_between(README.read_text(), report.markdown(result)))
        PICTURE.write_text(report.picture(result))
        print(f"written: {README}, {PICTURE}")
    return 1 if any(scenario["fault"] for scenario in result["scenarios"]) else 0


def run(chosen: argparse.Namespace) -> report.Result:
    """Measures what was chosen."""
    for program in PROGRAMS:
        if not shutil.which(program):
            raise Fault(f"{program} is not installed; run tests/setup")
    wanted = choose(chosen.only)
    binaries = {"a": find(chosen.a), "b": find(chosen.b)}
    with Directory(chosen.tmp) as place:
        bench = measure.Bench(
            binaries=binaries,
            nginx=find(chosen.nginx),
            place=place,
            floor=find(chosen.floor) if chosen.floor else None,
            rounds=chosen.rounds,
            seconds=chosen.seconds,
            minutes=chosen.minutes,
            nice=chosen.nice,
        )
        result: report.Result = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine(place),
            "kernel": platform.release(),
            "versions": {**{side: version(binary) for side, binary in binaries.items()}, **tools()},
            "method": {"rounds": chosen.rounds, "seconds": chosen.seconds, "minutes": chosen.minutes},
            "scenarios": [],
        }
        print(report.conditions(result), f"load average {os.getloadavg()[0]:.1f}", sep="; ", flush=True)
        for scenario in wanted:
            row = measured(bench, scenario)
            result["scenarios"].append(row)
            verdict = report.judge(row)
            said = f"{'met' if verdict.met else 'not met':<9}{row['fault'] or verdict.said}"
            if row["floor"]:
                said += f"; the floor: {report.spread(row['floor'], row['figures'][0])}"
            print(f"{scenario.name:<26}{report.target(row):<8}{said}", flush=True)
    return result


def measured(bench: measure.Bench, scenario: Scenario) -> dict[str, Any]:
    """One scenario as the JSON has it."""
    pairs: list[measure.Pair] = []
    floor: list[measure.Pair] = []
    fault = None
    try:
        pairs = measure.measure(bench, scenario)
        floor = measure.floor(bench, scenario)
    except (Fault, OSError, ValueError, subprocess.SubprocessError) as error:
        fault = str(error) if isinstance(error, Fault) else f"{type(error).__name__}: {error}"
    return {
        "name": scenario.name,
        "about": scenario.about,
        "rule": scenario.rule.value,
        "target": scenario.target,
        "figures": list(scenario.figures),
        "pairs": pairs,
        "floor": floor,
        "fault": fault,
    }


def choose(names: str) -> list[Scenario]:
    patterns = names.split(",")
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(scenario.name, pattern) for scenario in SCENARIOS):
            raise Fault(f"no scenario is called {pattern}; --list says which there are")
    return [scenario for scenario in SCENARIOS if any(fnmatch.fnmatchcase(scenario.name, pattern) for pattern in patterns)]


def find(name: str) -> Path:
    """A program by path or name; Debian keeps servers where an ordinary user's PATH does not look."""
    places = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"])
    if found := shutil.which(name, path=places):
        return Path(found).resolve()
    raise Fault(f"{name} is not there")


def version(binary: Path) -> str:
    """As `-v` says it: weir/0.1.0, nginx/1.22.1."""
    said = subprocess.run([binary, "-v"], capture_output=True, text=True, timeout=30)
    found = re.search(r"\S+/[\d.]+", said.stdout + said.stderr)
    return found[0] if found else binary.name


def tools() -> dict[str, str]:
    wrk = subprocess.run(["wrk", "-v"], capture_output=True, text=True).stdout
    h2load = subprocess.run(["h2load", "--version"], capture_output=True, text=True).stdout
    found = {"wrk": re.search(r"wrk \S*?([\d.]+)", wrk), "h2load": re.search(r"nghttp2/([\d.]+)", h2load)}
    return {name: f"{name} {match[1]}" if match else name for name, match in found.items()}


def machine(place: Path) -> dict[str, Any]:
    """What the figures depend on; `place` has the files."""
    text = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    files = subprocess.run(["stat", "-f", "-c", "%T", place], capture_output=True, text=True).stdout.strip()
    congestion = Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    return {
        "processor": model[1].strip() if model else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "files": files,
        "congestion": congestion,
    }


def interrupted(number: int, _: object) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    # Ends by unwinding, so that servers, loads and files go.
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, interrupted)
    try:
        sys.exit(main())
    except Fault as fault:
        sys.exit(f"bench.py: {fault}")

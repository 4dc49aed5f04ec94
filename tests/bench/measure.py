"""How it is measured: two servers with the same configuration, at the same time, under the same load.

In: a scenario and two binaries. Out: pairs of figures, one pair a round. The servers share one processor, and what asks
them and what is behind them has another (or others): what disturbs the machine disturbs both in the same moment, and so
the ratio of a pair stays when the figures do not. In every other round the two change places. Before anything is measured, both must
have given the same answer; a load that failed is a fault, not a figure.
"""

import contextlib
import gzip
import hashlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Callable, Iterator

import files
import load
import usage
from load import H2load, Load, Outcome, Place, Playing, Wrk, url
from scenarios import FLOORS, FRAME, UPSTREAM, Kind, Scenario
from servers import DEADLINE, Fault, Program, Server, free_port

Figures = dict[str, float | None]
Pair = dict[str, Figures]

# A side may pack a body this much worse before it counts as another answer.
PACKED_SLACK = 1.10

# How often the configuration is read again under load.
RELOAD_EVERY = 0.5

# The side that answers as `floor.rs` does.
FLOOR = "f"

# Of the latency scenario: connections that share the fixed rate.
STEADY_CONNECTIONS = 16


@dataclass
class Bench:
    """What all scenarios have in common: the two binaries, the processors, the files."""

    binaries: dict[str, Path]
    nginx: Path
    place: Path
    floor: Path | None = None
    rounds: int = 5
    seconds: float = 1.0
    minutes: float = 10.0
    nice: int = 0
    say: Callable[[str], None] = print
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        processors = sorted(os.sched_getaffinity(0))
        self.server_cpu = processors[0]
        self.load_cpu = processors[1 % len(processors)]
        self.upstream_cpu = processors[2] if len(processors) > 2 else self.load_cpu
        self.root = self.place / "root"
        files.fill(self.root)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def wrap(self, cpu: int | None) -> list[str]:
        """What a program is started by."""
        pinned = ["taskset", "-c", str(cpu)] if cpu is not None else []
        return [*pinned, *(["nice", "-n", str(self.nice)] if self.nice else [])]

    def fresh(self, name: str) -> Path:
        """A directory, or the path of a file, that was not there."""
        self.count += 1
        return self.place / f"{name}-{self.count:04d}"

    def load_place(self) -> Place:
        return Place(self.wrap(self.load_cpu), self.fresh("load"))

    def warm_up(self) -> float:
        return min(1.0, max(0.3, self.seconds / 2))


@dataclass
class Side:
    """One of the two servers, running."""

    name: str
    server: Program
    tls_port: int

    @property
    def session(self) -> int:
        return self.server.process.pid


# ---- starting and comparing


def user() -> str:
    return "user root;" if os.geteuid() == 0 else ""


@contextlib.contextmanager
def running(bench: Bench, scenario: Scenario, names: str, workers: int = 1, pinned: bool = True) -> Iterator[list[Side]]:
    """Starts the sides named in that order, and who is behind them; compares what they answer; ends them all."""
    with contextlib.ExitStack() as stack:
        upstream = 0
        if scenario.upstream:
            upstream = stack.enter_context(behind(bench, scenario.upstream))
        values = {"USER": user(), "WORKERS": workers, "LOG": scenario.log, "ROOT": bench.root, "UPSTREAM": upstream}
        values["ZONE"] = "1m" if scenario.kind is Kind.MIXED else "200m"
        if "@CERTIFICATE@" in scenario.server:
            values["CERTIFICATE"], values["KEY"] = files.certificate(bench.place)
        if "/many/" in scenario.load.path:
            files.fill_many(bench.root)
        sides = []
        for name in names:
            port, tls_port = free_port(), free_port()
            text = FRAME.replace("@HTTP@", scenario.http).replace("@SERVER@", scenario.server)
            text = fill(text, {**values, "PORT": port, "TLS": tls_port, "LISTEN": scenario.listen})
            wrap = bench.wrap(bench.server_cpu if pinned else None)
            try:
                if name == FLOOR:
                    server: Program = Program([*wrap, *floor_command(bench, scenario, port, upstream)], bench.fresh(name), port)
                else:
                    server = Server(bench.binaries[name], bench.fresh(name), text, port, wrap)
            except Fault as fault:
                raise Fault(f"{name}: {fault}") from None
            stack.callback(end, server)
            sides.append(Side(name, server, tls_port))
        compare(bench, scenario, [side for side in sides if side.name != FLOOR])
        yield sides


def floor_command(bench: Bench, scenario: Scenario, port: int, upstream: int) -> list[str]:
    way, name = FLOORS[scenario.name]
    return [str(bench.floor), str(port), way, str(bench.root / name if name else upstream)]


def fill(text: str, values: dict[str, object]) -> str:
    for name, value in values.items():
        text = text.replace(f"@{name}@", str(value))
    return text


def end(server: Program) -> None:
    """Ends a server, which may have something to write first, and takes its files away: a cache can be large."""
    if isinstance(server, Server):
        server.stop()
    server.kill()
    shutil.rmtree(server.prefix, ignore_errors=True)


@contextlib.contextmanager
def behind(bench: Bench, name: str) -> Iterator[int]:
    """The upstream of that name; its port."""
    port = free_port()
    wrap = bench.wrap(bench.upstream_cpu)
    prefix = bench.fresh("upstream")
    if name == "nginx":
        text = fill(UPSTREAM, {"USER": user(), "ROOT": bench.root, "PORT": port})
        server: Program = Server(bench.nginx, prefix, text, port, wrap)
    else:
        program = Path(__file__).with_name("peers.py")
        server = Program([*wrap, sys.executable, str(program), name, str(port)], prefix, port)
    try:
        yield port
    finally:
        end(server)


def compare(bench: Bench, scenario: Scenario, sides: list[Side]) -> None:
    """Both sides must answer alike, and answer a second time as the first, unless that comes from the cache."""
    if isinstance(scenario.load, load.Messages):
        return  # the load itself looks at each echo
    answers = {}
    for side in sides:
        first = fetch(bench, scenario.load, side.server.port)
        second = fetch(bench, scenario.load, side.server.port)
        if scenario.cached and second["x-cache"] != scenario.cached:
            raise Fault(f"{side.name}: the second answer has X-Cache {second['x-cache']!r}")
        if first["body"] != second["body"]:
            raise Fault(f"{side.name}: the second body is another than the first")
        if first["status"] not in ("200", "304"):
            raise Fault(f"{side.name}: status {first['status']}\n{side.server.said()}")
        answers[side.name] = second
    if len(answers) < 2:
        return
    size = {name: int(answer.pop("size")) for name, answer in answers.items()}
    for key, expected in answers["b"].items():
        if answers["a"][key] != expected:
            raise Fault(f"the answers differ in {key}: a {answers['a'][key]!r}, b {expected!r}")
    if size["a"] > size["b"] * PACKED_SLACK:
        raise Fault(f"a sends {size['a']} bytes where b sends {size['b']}")


def fetch(bench: Bench, asks: Load, port: int) -> dict[str, str]:
    """One request as the load makes it: the fields that make an answer what it is, and a digest of its body."""
    head, body = bench.fresh("head"), bench.fresh("body")
    version = "--http1.1"
    if isinstance(asks, H2load):
        version = "--http2" if asks.tls else "--http2-prior-knowledge"
    command = ["curl", "-sSk", "-m", "30", version, "-D", str(head), "-o", str(body), "-w", "%{http_code} %{http_version}"]
    for header in getattr(asks, "headers", ()):
        command += ["-H", header]
    if "wrk.body" in getattr(asks, "script", ""):
        command += ["-H", "Expect:", "--data-binary", f"@{bench.root / '10m.bin'}"]
    asked = subprocess.run([*command, url(port, asks.path, asks.tls)], capture_output=True, text=True)
    if asked.returncode != 0:
        raise Fault(f"curl: {asked.stderr.strip()}")
    status, protocol = asked.stdout.split()
    fields = {}
    for line in head.read_text(errors="replace").splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields[name.lower()] = value.strip()
    content = body.read_bytes() if body.exists() else b""
    size = len(content)
    if fields.get("content-encoding") == "gzip":
        content = gzip.decompress(content)
    head.unlink()
    body.unlink(missing_ok=True)
    names = ("content-type", "content-encoding", "etag", "last-modified", "location", "x-cache")
    seen = {name: fields.get(name, "") for name in names}
    digest = hashlib.sha256(content).hexdigest()
    return {"status": status, "protocol": protocol, **seen, "body": digest, "size": str(size)}


def judged(name: str, outcome: Outcome) -> Outcome:
    """An outcome that may be counted: a load that failed here and there would measure something else."""
    if outcome.requests == 0 or outcome.failures:
        raise Fault(f"{name}: {outcome.failures} of {outcome.requests} requests failed")
    return outcome


def together(bench: Bench, asks: Load, sides: list[Side], seconds: float) -> tuple[dict[str, Outcome], dict[str, float]]:
    """The same load on all sides at once. What each load saw, and seconds of processor time each server took."""
    before = {side.name: usage.usage(side.session) for side in sides}
    spent, outcomes = {}, {}
    playing: list[Playing] = []
    try:
        for side in sides:
            playing.append(asks.start(side.server.port, seconds, bench.load_place()))
        for plays in playing:
            plays.begin()
        for side, plays in zip(sides, playing):
            outcomes[side.name] = plays.end()
            spent[side.name] = usage.usage(side.session).since(before[side.name])
    finally:
        for plays in playing:
            plays.kill()
    return outcomes, spent


# ---- one function for each kind of scenario: pairs of figures


def measure(bench: Bench, scenario: Scenario) -> list[Pair]:
    kinds = {
        Kind.LOAD: under_load,
        Kind.IDLE: idle,
        Kind.CHECK: check,
        Kind.RELOAD: reload_under_load,
        Kind.LATENCY: latency,
        Kind.WORKERS: workers,
    }
    if scenario.kind is Kind.MIXED:
        return mixed(bench, scenario)
    return [kinds[scenario.kind](bench, scenario, "ab" if number % 2 == 0 else "ba") for number in range(bench.rounds)]


def floor(bench: Bench, scenario: Scenario) -> list[Pair]:
    """What the scenario costs where only the system calls of its answers are made, against b; in a's place."""
    if bench.floor is None or scenario.name not in FLOORS:
        return []
    orders = (f"{FLOOR}b" if number % 2 == 0 else f"b{FLOOR}" for number in range(bench.rounds))
    return [{"a": pair[FLOOR], "b": pair["b"]} for pair in (under_load(bench, scenario, order) for order in orders)]


def under_load(bench: Bench, scenario: Scenario, order: str) -> Pair:
    """Processor time per request, requests a second, latency and memory, both at once."""
    with running(bench, scenario, order) as sides:
        warm, _ = together(bench, scenario.load, sides, bench.warm_up() * scenario.warm)
        outcomes, spent = together(bench, scenario.load, sides, bench.seconds * scenario.stretch)
        pair = {}
        for side in sides:
            judged(side.name, warm[side.name])
            outcome = judged(side.name, outcomes[side.name])
            cpu = spent[side.name] / outcome.requests * 1e6
            pair[side.name] = {"cpu_us": cpu, "memory": usage.memory(side.session), **outcome.figures()}
        return pair


def idle(bench: Bench, scenario: Scenario, order: str) -> Pair:
    """Memory of connections that have had an answer and are kept."""
    pair: Pair = {}
    count = min(scenario.load.connections, resource.getrlimit(resource.RLIMIT_NOFILE)[1] - 200)
    if count < scenario.load.connections:
        raise Fault(f"no more than {count} connections may be open here; ulimit -n says so")
    for name in order:
        with running(bench, scenario, name) as (side,):
            before = usage.memory(side.session)
            words = ["idle", str(side.server.port), str(count), "tls" if scenario.load.tls else "plain"]
            command = [*bench.wrap(bench.load_cpu), sys.executable, str(load.CLIENTS), *words]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as clients:
                watch = threading.Timer(DEADLINE * 2, clients.kill)
                watch.start()
                try:
                    assert clients.stdout is not None
                    line = clients.stdout.readline()
                    if not line:
                        raise Fault(f"{name}: not all of {count} connections stand\n{side.server.said()}")
                    after = settled(side.session)
                finally:
                    watch.cancel()
                    clients.kill()
            standing = json.loads(line)["connections"]
            pair[name] = {"memory": after, "connection_bytes": (after - before) / standing}
    return pair


def settled(session: int) -> int:
    """The memory once it does not change any more."""
    before = usage.memory(session)
    for _ in range(20):
        time.sleep(0.1)  # the pace of looking
        now = usage.memory(session)
        if abs(now - before) <= 64 * 1024:
            return now
        before = now
    return before


def check(bench: Bench, scenario: Scenario, order: str) -> Pair:
    """Processor time of `-t`, both at once."""
    del scenario
    started: list[tuple[str, subprocess.Popen[bytes]]] = []
    pair: Pair = {}
    prefixes = []
    for name in order:
        prefix = bench.fresh(name)
        prefixes.append(prefix)
        for directory in ("logs", "temp"):
            (prefix / directory).mkdir(parents=True)
        (prefix / "nginx.conf").write_text(files.many_servers(bench.root, user()))
        command = [*bench.wrap(bench.server_cpu), str(bench.binaries[name]), "-p", f"{prefix}/", "-c", "nginx.conf", "-t"]
        with open(prefix / "stderr", "wb") as said:
            started.append((name, subprocess.Popen(command, cwd=prefix, stdin=subprocess.DEVNULL, stdout=said, stderr=said)))
    for (name, process), prefix in zip(started, prefixes):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            raise Fault(f"{name}: -t failed: {(prefix / 'stderr').read_text(errors='replace')[-400:]}")
        pair[name] = {"cpu_us": (used.ru_utime + used.ru_stime) * 1e6, "memory": used.ru_maxrss * 1024}
        shutil.rmtree(prefix)
    return pair


def reload_under_load(bench: Bench, scenario: Scenario, order: str) -> Pair:
    """Questions that were left without a whole answer while the server read its configuration again and again."""
    pair: Pair = {}
    seconds = max(bench.seconds, 3 * RELOAD_EVERY)
    for name in order:
        with running(bench, scenario, name) as (side,):
            assert isinstance(side.server, Server)
            over = threading.Event()
            reloads = 0
            plays = scenario.load.start(side.server.port, seconds, bench.load_place())
            try:
                end_at = time.monotonic() + seconds - RELOAD_EVERY
                while time.monotonic() < end_at and not over.wait(RELOAD_EVERY):
                    os.kill(side.server.pid(), signal.SIGHUP)
                    reloads += 1
                outcome = plays.end()
            finally:
                plays.kill()
            if reloads == 0:
                raise Fault("there was no time for a reload")
            pair[name] = {**outcome.figures(), "failures": outcome.failures, "reloads": reloads}
    return pair


def latency(bench: Bench, scenario: Scenario, order: str) -> Pair:
    """p99 at half of what b can do at most, each server alone."""
    with running(bench, scenario, "b") as (side,):
        judged("b", scenario.load.start(side.server.port, bench.warm_up(), bench.load_place()).end())
        most = judged("b", scenario.load.start(side.server.port, bench.seconds, bench.load_place()).end())
    half = H2load(scenario.load.path, STEADY_CONNECTIONS, rate=most.requests / most.seconds / 2)
    pair: Pair = {}
    for name in order:
        with running(bench, scenario, name) as (side,):
            judged(name, half.start(side.server.port, bench.warm_up(), bench.load_place()).end())
            before = usage.usage(side.session)
            outcome = judged(name, half.start(side.server.port, bench.seconds, bench.load_place()).end())
            cpu = usage.usage(side.session).since(before) / outcome.requests * 1e6
            pair[name] = {"cpu_us": cpu, "memory": usage.memory(side.session), **outcome.figures()}
    return pair


def workers(bench: Bench, scenario: Scenario, order: str) -> Pair:
    """Requests per second of the busiest worker's processor time, with two workers over with one.

    A server can serve more until its busiest worker has no time left. So the load generator need not be able to ask
    as much as two workers can answer, which it cannot where there are few processors.
    """
    pair: Pair = {}
    for name in order:
        capacity = {}
        for count in (1, 2):
            with running(bench, scenario, name, workers=count, pinned=False) as (side,):
                place = replace(bench.load_place(), wrap=bench.wrap(None))
                judged(name, scenario.load.start(side.server.port, bench.warm_up(), place).end())
                before = usage.usage(side.session)
                outcome = judged(name, scenario.load.start(side.server.port, bench.seconds, place).end())
                capacity[count] = outcome.requests / usage.usage(side.session).busiest_since(before)
        pair[name] = {"scaling": capacity[2] / capacity[1], "capacity_one": capacity[1], "capacity_two": capacity[2]}
    return pair


def mixed(bench: Bench, scenario: Scenario) -> list[Pair]:
    """Memory and p99 of each minute, both at once: HTTP/1.1 of all kinds, and HTTP over TLS beside it."""
    intervals = max(3, round(bench.minutes))
    seconds = bench.minutes * 60 / intervals
    over_tls = Wrk(connections=16, tls=True)
    pairs: list[Pair] = []
    with running(bench, scenario, "ab") as sides:
        for number in range(1, intervals + 1):
            beside: list[Playing] = []
            try:
                beside = [over_tls.start(side.tls_port, seconds, bench.load_place()) for side in sides]
                for plays in beside:
                    plays.begin()  # its time is the same minute, not one behind it
                outcomes, spent = together(bench, scenario.load, sides, seconds)
                for side, plays in zip(sides, beside):
                    judged(side.name, plays.end())
            finally:
                for plays in beside:
                    plays.kill()
            pair: Pair = {}
            for side in sides:
                outcome = judged(side.name, outcomes[side.name])
                pair[side.name] = {
                    "memory": usage.memory(side.session),
                    "cpu_seconds": spent[side.name],
                    **outcome.figures(),
                }
            pairs.append(pair)
            figures = "   ".join(
                f"{name}: {(seen['memory'] or 0) / 2**20:6.1f} MB, p99 {(seen['p99_us'] or 0) / 1000:6.2f} ms"
                for name, seen in sorted(pair.items())
            )
            bench.say(f"    minute {number * seconds / 60:4.1f}   {figures}")
    return pairs

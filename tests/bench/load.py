"""Load: what asks, how long, and what came of it.

In: a port and a time. Out: an `Outcome`. A load says all it asks for in its fields, so that a scenario is read in one
place; the programs that do it are wrk, h2load and `clients.py`.
"""

import json
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Protocol

from servers import HOST, Fault

CLIENTS = Path(__file__).with_name("clients.py")

# How long a load may take to end after its time.
PATIENCE = 60.0

# Ends every script of wrk: the figures as one line.
DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('figures {"requests":%d,"us":%d,"failures":%d,"p50":%d,"p99":%d}\\n', summary.requests,
    summary.duration, e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass(frozen=True)
class Outcome:
    """What one load saw."""

    requests: int
    seconds: float
    failures: int
    p50_us: float | None
    p99_us: float | None

    def figures(self) -> dict[str, float | None]:
        return {
            "rate": self.requests / self.seconds,
            "p50_us": self.p50_us,
            "p99_us": self.p99_us,
            "failures": self.failures,
        }


@dataclass(frozen=True)
class Place:
    """Where a load runs: a command to run it by (which pins it), and a file of its own."""

    wrap: list[str]
    scratch: Path


class Playing:
    """A load that runs."""

    def __init__(self, command: list[str], seconds: float, interrupted: bool, read: Callable[[str], Outcome]) -> None:
        self.end_at: float | None = None
        self.seconds, self.interrupted, self.read, self.command = seconds, interrupted, read, command
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def begin(self) -> float:
        """Waits until the program is on its way, from when its time counts, and returns when that is over."""
        if self.end_at is None:
            ready_by = time.monotonic() + PATIENCE
            while self.interrupted and self.process.poll() is None and not handles_interrupt(self.process.pid):
                if time.monotonic() > ready_by:
                    raise Fault(f"{self.command} did not begin")
                time.sleep(0.005)  # the pace of looking
            self.end_at = time.monotonic() + self.seconds
        return self.end_at

    def end(self) -> Outcome:
        """Waits for its time to be over and reads what it saw."""
        left = self.begin() - time.monotonic()
        if self.interrupted:
            time.sleep(max(0.0, left))
            self.process.send_signal(signal.SIGINT)
        try:
            output, _ = self.process.communicate(timeout=max(0.0, left) + PATIENCE)
        except subprocess.TimeoutExpired:
            raise Fault(f"{self.command} did not end") from None
        finally:
            self.kill()
        if self.process.returncode != 0:
            raise Fault(f"{self.command} ended with {self.process.returncode}: {output[-400:]}")
        return self.read(output)

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def handles_interrupt(pid: int) -> bool:
    """Whether a process would take an interrupt for the end of its task. wrk does from when all its threads run; before, it
    would die of it."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    return bool(caught and int(caught[1], 16) >> (signal.SIGINT - 1) & 1)


class Load(Protocol):
    """What asks."""

    @property
    def path(self) -> str: ...

    @property
    def connections(self) -> int: ...

    @property
    def tls(self) -> bool: ...

    def start(self, port: int, seconds: float, place: Place) -> Playing: ...


@dataclass(frozen=True)
class Wrk:
    """HTTP/1.1: each connection asks again as soon as it has its answer. `script` is Lua; `TAG` in it is never twice the same."""

    path: str = "/1k.html"
    connections: int = 64
    headers: tuple[str, ...] = ()
    script: str = ""
    tls: bool = False
    threads: int = 1

    def start(self, port: int, seconds: float, place: Place) -> Playing:
        place.scratch.write_text(f'local TAG = "{time.monotonic_ns()}"\n{self.script}{DONE}')
        fields = [word for header in self.headers for word in ("-H", header)]
        # wrk knows whole seconds only. It is interrupted when its time is over, which it takes for the end.
        command = ["wrk", "-t", str(self.threads), "-c", str(self.connections), "-d", f"{int(seconds) + 600}s"]
        command += ["--timeout", "10s", "-s", str(place.scratch), *fields, url(port, self.path, self.tls)]
        return Playing([*place.wrap, *command], seconds, True, self.read)

    def read(self, output: str) -> Outcome:
        found = re.search(r"^figures (\{.*\})$", output, re.MULTILINE)
        if not found:
            raise Fault(f"wrk: {output[-400:]}")
        seen = json.loads(found[1])
        return Outcome(seen["requests"], seen["us"] / 1e6, seen["failures"], seen["p50"], seen["p99"])


@dataclass(frozen=True)
class H2load:
    """HTTP/2 with so many streams at once on each connection; or HTTP/1.1 at a fixed rate, so many requests a second in all."""

    path: str = "/1k.html"
    connections: int = 16
    streams: int = 16
    tls: bool = False
    rate: float | None = None

    def start(self, port: int, seconds: float, place: Place) -> Playing:
        command = ["h2load", "-t", "1", "-c", str(self.connections), "-D", f"{round(seconds * 1000)}ms"]
        if self.rate is None:
            command += ["-m", str(self.streams)]
        else:
            command += ["--h1", "--rps", str(max(1, round(self.rate / self.connections)))]
        place.scratch.unlink(missing_ok=True)
        command += [f"--log-file={place.scratch}", url(port, self.path, self.tls)]

        def read(output: str) -> Outcome:
            time_taken = re.search(r"finished in ([\d.]+)(ms|s)", output)
            done = re.search(r"(\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output)
            if not time_taken or not done:
                raise Fault(f"h2load: {output[-400:]}")
            took = float(time_taken[1]) / (1000 if time_taken[2] == "ms" else 1)
            rows = [line.split("\t") for line in place.scratch.read_text().splitlines()]
            times = sorted(int(row[2]) for row in rows if len(row) == 3)
            succeeded, *failed = (int(word) for word in done.groups())
            return Outcome(succeeded, took, sum(failed[1:]), percentile(times, 50), percentile(times, 99))

        return Playing([*place.wrap, *command], seconds, False, read)


@dataclass(frozen=True)
class Messages:
    """Messages of 64 bytes over WebSockets, each after the echo of the one before."""

    path: str = "/ws"
    connections: int = 64
    tls: bool = False

    def start(self, port: int, seconds: float, place: Place) -> Playing:
        return client(place, "messages", port, self.connections, seconds)


@dataclass(frozen=True)
class Steady:
    """HTTP/1.1 clients that tell an answer that was cut from a connection that was closed between answers."""

    path: str = "/1k.html"
    connections: int = 32
    tls: bool = False

    def start(self, port: int, seconds: float, place: Place) -> Playing:
        return client(place, "steady", port, self.connections, seconds)


def client(place: Place, name: str, port: int, connections: int, seconds: float) -> Playing:
    command = [sys.executable, str(CLIENTS), name, str(port), str(connections), str(seconds)]

    def read(output: str) -> Outcome:
        return Outcome(**json.loads(output.strip().splitlines()[-1]))

    return Playing([*place.wrap, *command], seconds, False, read)


def url(port: int, path: str, tls: bool) -> str:
    return f"{'https' if tls else 'http'}://{HOST}:{port}{path}"


def percentile(times: list[int], share: int) -> int | None:
    """Of sorted times."""
    return times[min(len(times) - 1, len(times) * share // 100)] if times else None

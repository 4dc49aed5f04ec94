#!/usr/bin/env python3
"""What a request costs, counted instead of timed: instructions by callgrind, system calls by strace.

    budget.py [--binary target/release/weir]     compares with budget.tsv; fails when a figure grew by more than 5 %
    budget.py --write                            counts, and writes the figures down

Each figure is a difference: a server that answers WARM + MEASURED requests, less a server that answers WARM. Start and
end cancel out, and what is left is the path of a request. One client asks one thing after the other on one connection,
so nothing depends on how fast the machine is or what else it does: five runs, two of them beside builds, lay within
0.3 % of each other.
"""

import argparse
import contextlib
import os
import platform
import shutil
import socket
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from servers import HOST, Directory, Fault, Server, free_port, put

HERE = Path(__file__).resolve().parent
FILE = HERE / "budget.tsv"
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parents[1] / "target")) / "release/weir"

WARM = 300
MEASURED = 2000

# How far a figure may move before somebody must look.
SLACK = 0.05

BODY = bytes(33 + i % 90 for i in range(1024))
MESSAGE = b"\x81\xc0\0\0\0\0" + bytes(33 + i % 90 for i in range(64))

# One process without a sandbox, for valgrind does not know every system call that makes one. The log is buffered:
# how often unbuffered lines are written depends on the time they take.
CONF = """\
master_process off; daemon off; worker_processes 1; worker_sandbox off;
pid logs/pid; error_log logs/error.log error;
events { worker_connections 1024; }
http {
    types { text/html html; }
    default_type application/octet-stream;
    log_format full '$remote_addr - $remote_user [$time_local] "$request" "$request_time" "$upstream_response_time" '
                    '$status $body_bytes_sent "$http_referer" "$http_user_agent" $http_x_forwarded_for $host';
    access_log logs/access.log full buffer=64k;
    client_body_temp_path temp/body; proxy_temp_path temp/proxy; fastcgi_temp_path temp/fastcgi;
    sendfile on; tcp_nopush on; keepalive_requests 1000000;
    open_file_cache max=1000 inactive=1h; open_file_cache_valid 1h;
    proxy_cache_path cache levels=1:2 keys_zone=zone:1m inactive=1h;
    upstream peer { server 127.0.0.1:@PEER@; keepalive 8; }
    proxy_http_version 1.1; proxy_set_header Connection "";
    server {
        listen 127.0.0.1:@PORT@;
        root html;
        location / { }
        location = /return { return 200 "ok"; }
        location /proxy { proxy_pass http://peer; }
        location /cache { proxy_pass http://peer; proxy_cache zone; proxy_cache_valid 1h; }
        location /ws {
            proxy_pass http://peer;
            proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection "upgrade";
        }
    }
}
"""

HEAD = """\
# What one request costs, by budget.py: instructions in user space (callgrind) and system calls (strace), of the worker with
# all its threads. `python3 tests/bench/budget.py` fails when one has grown by more than 5 %; after a change that is worth
# it, or one that lowers a figure, `python3 tests/bench/budget.py --write` writes them anew. Instructions are those of a
# release build; another compiler or another processor may move them all a little.
"""


# ---- what is asked


@dataclass(frozen=True)
class Scenario:
    """One kind of request, and whether its instructions are kept beside its system calls."""

    name: str
    play: Callable[[socket.socket, int], None]
    instructions: bool


def asks(path: str) -> Callable[[socket.socket, int], None]:
    """Requests of one path on one connection, each after the answer to the one before."""
    request = f"GET {path} HTTP/1.1\r\nHost: budget.test\r\nUser-Agent: budget\r\nAccept: */*\r\n\r\n".encode()

    def play(connection: socket.socket, count: int) -> None:
        for _ in range(count):
            connection.sendall(request)
            head, rest = read_head(connection)
            if not head.startswith(b"HTTP/1.1 200 "):
                raise Fault(f"{path}: {head[:60]!r}")
            read_exactly(connection, content_length(head) - rest)

    return play


def echoes(connection: socket.socket, count: int) -> None:
    """Messages over a WebSocket, each after the echo of the one before."""
    connection.sendall(
        b"GET /ws HTTP/1.1\r\nHost: budget.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    head, _ = read_head(connection)
    if not head.startswith(b"HTTP/1.1 101 "):
        raise Fault(f"/ws: {head[:60]!r}")
    for _ in range(count):
        connection.sendall(MESSAGE)
        read_exactly(connection, len(MESSAGE))


SCENARIOS = (
    Scenario("static-1k", asks("/1k.html"), instructions=True),
    Scenario("proxy-1k", asks("/proxy"), instructions=True),
    Scenario("cache-hit-1k", asks("/cache"), instructions=True),
    Scenario("return-200", asks("/return"), instructions=False),
    Scenario("ws-echo", echoes, instructions=False),
)


def read_head(connection: socket.socket) -> tuple[bytes, int]:
    """A head, and how many bytes of the body came along."""
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise Fault(f"the connection ended in a head: {received[:60]!r}")
        received += piece
    head, _, rest = received.partition(b"\r\n\r\n")
    return head, len(rest)


def content_length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    raise Fault(f"no Content-Length: {head!r}")


def read_exactly(connection: socket.socket, length: int) -> None:
    while length > 0:
        piece = connection.recv(min(length, 65536))
        if not piece:
            raise Fault(f"{length} bytes are missing")
        length -= len(piece)


class Peer:
    """The upstream: 1 KB for each request, an echo for a WebSocket. Answers leave in one piece, so that one read takes them."""

    ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: 1024\r\n\r\n" + BODY
    SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"

    def __init__(self) -> None:
        self.listener = socket.create_server((HOST, 0))
        self.port: int = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener is closed
            while True:
                connection, _ = self.listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        received = b""
        with connection, contextlib.suppress(OSError):
            while piece := connection.recv(65536):
                received += piece
                if not received.endswith(b"\r\n\r\n"):
                    continue
                if received.startswith(b"GET /ws "):
                    connection.sendall(self.SWITCH)
                    while message := connection.recv(65536):
                        connection.sendall(message)
                    return
                connection.sendall(self.ANSWER)
                received = b""

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


# ---- who counts


class Callgrind:
    """Instructions in user space, of all threads."""

    column = "instructions"
    program = "valgrind"

    @staticmethod
    def wrap(output: Path) -> list[str]:
        # Set, so that the server does not execute itself once more: valgrind would not follow.
        heap = "GLIBC_TUNABLES=glibc.malloc.tcache_count=128"
        return ["env", heap, "valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={output}"]

    @staticmethod
    def read(text: str) -> dict[str, int]:
        for line in text.splitlines():
            if line.startswith(("totals:", "summary:")):
                return {"instructions": int(line.split()[1])}
        raise Fault("callgrind wrote no total")


class Strace:
    """System calls by name, of all threads."""

    column = "calls"
    program = "strace"

    @staticmethod
    def wrap(output: Path) -> list[str]:
        return ["strace", "-f", "-c", "-U", "name,calls", "-o", str(output)]

    @staticmethod
    def read(text: str) -> dict[str, int]:
        rows = [line.split() for line in text.splitlines()]
        calls = {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit() and row[0] != "total"}
        if not calls:
            raise Fault("strace counted no call; may this user trace processes?")
        return calls


Counter = type[Callgrind] | type[Strace]


def run(binary: Path, counter: Counter, scenario: Scenario, requests: int) -> dict[str, int]:
    """What a server costs from its start to its end, with so many requests in between."""
    port = free_port()
    with Directory() as prefix, contextlib.closing(Peer()) as peer:
        put(prefix / "html/1k.html", BODY)
        conf = CONF.replace("@PORT@", str(port)).replace("@PEER@", str(peer.port))
        output = prefix / "counted"
        server = Server(binary, prefix, conf, port, counter.wrap(output))
        try:
            with server.connect() as connection:
                scenario.play(connection, requests)
            server.stop()
            return counter.read(output.read_text(errors="replace"))
        except (Fault, OSError) as error:
            raise Fault(f"{scenario.name}: {error}\n{server.said()}") from error
        finally:
            server.kill()


def count(binary: Path, counter: Counter, scenario: Scenario) -> dict[str, float]:
    """What one request costs, by name of what was counted."""
    less = run(binary, counter, scenario, WARM)
    more = run(binary, counter, scenario, WARM + MEASURED)
    return {name: (more.get(name, 0) - less.get(name, 0)) / MEASURED for name in {*less, *more}}


# ---- the file, and what is made of it

Figures = dict[tuple[str, str], float]


def parse(text: str) -> Figures:
    """The figures of a budget file, by scenario and column."""
    figures: Figures = {}
    rows = [line.split("\t") for line in text.splitlines() if line and not line.startswith("#")]
    for row in rows[1:]:
        for column, value in zip(rows[0][1:], row[1:]):
            if value != "-":
                figures[row[0], column] = float(value)
    return figures


def render(figures: Figures) -> str:
    """The budget file with these figures."""
    lines = [HEAD + "scenario\tinstructions\tcalls"]
    for name in dict.fromkeys(scenario for scenario, _ in figures):
        instructions = figures.get((name, "instructions"))
        lines.append(f"{name}\t{'-' if instructions is None else round(instructions)}\t{figures[name, 'calls']:.2f}")
    return "\n".join(lines) + "\n"


def judge(kept: Figures, counted: Figures) -> tuple[list[str], bool]:
    """Compares. Says what there is to say, and whether it is good."""
    said, good = [], True
    for key in dict.fromkeys((*kept, *counted)):
        name, column = key
        if key not in kept or key not in counted:
            missing = "budget.tsv" if key not in kept else "what was counted"
            said.append(f"MISSING: {name}: {missing} has no {column}")
            good = False
            continue
        before, now = kept[key], counted[key]
        change = now / before - 1
        figures = f"{name}: {now:.{0 if column == 'instructions' else 2}f} {column} a request, {before:g} in budget.tsv"
        if change > SLACK:
            said.append(f"HIGHER: {figures}: {change:+.1%}")
            good = False
        elif change < -SLACK:
            said.append(f"LOWER: {figures}: {change:+.1%}; the new figure wants to be written")
        else:
            said.append(f"ok: {figures}: {change:+.1%}")
    return said, good


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--binary", type=Path, default=RELEASE, help="a release build (default: target/release/weir)")
    options.add_argument("--write", action="store_true", help="write the figures to budget.tsv")
    chosen = options.parse_args()
    if not chosen.binary.is_file():
        raise Fault(f"{chosen.binary} is not there; cargo build --release makes it")
    counters = (Callgrind, Strace)
    for counter in counters:
        if not shutil.which(counter.program):
            raise Fault(f"{counter.program} is not installed; run tests/setup")

    counted: Figures = {}
    calls: dict[str, dict[str, float]] = {}
    for scenario in SCENARIOS:
        for counter in counters:
            if counter is Callgrind and not scenario.instructions:
                continue
            cost = count(chosen.binary.resolve(), counter, scenario)
            counted[scenario.name, counter.column] = sum(cost.values())
            if counter is Strace:
                calls[scenario.name] = cost

    said, good = judge(parse(FILE.read_text()) if FILE.exists() else {}, counted)
    print("\n".join(said))
    for name, cost in calls.items():
        rows = sorted(cost.items(), key=lambda row: -row[1])
        print(f"calls of {name}: " + ", ".join(f"{call} {each:.2f}" for call, each in rows if each >= 0.005))
    if chosen.write:
        FILE.write_text(render(counted))
        print(f"written to {FILE}, counted on {platform.machine()}, Linux {platform.release()}")
        return 0
    if not good:
        print(
            "FAILED: a request costs more than it did.\n"
            "Find out why (valgrind --tool=callgrind, strace -c). Save it elsewhere, or say in the commit why it is worth it;\n"
            "then python3 tests/bench/budget.py --write writes the new figures."
        )
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Fault as fault:
        sys.exit(f"budget.py: {fault}")

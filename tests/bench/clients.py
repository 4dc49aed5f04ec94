#!/usr/bin/env python3
"""Clients that no load generator has; a program of its own, so that they can be pinned.

    clients.py messages PORT CONNECTIONS SECONDS    WebSocket messages of 64 bytes, each after the echo of the one before
    clients.py steady PORT CONNECTIONS SECONDS      requests over kept connections
    clients.py idle PORT CONNECTIONS plain|tls      one request on each connection, then silence until a line is read

Out: one line of JSON, an `Outcome` of load.py; of idle, the number of connections that stand. A failure is a question without a
whole answer: the connection was refused, cut, or closed although a question was under way.
"""

import json
import resource
import select
import socket
import ssl
import sys
import time
from typing import Callable

HOST = "127.0.0.1"
REQUEST = b"GET /1k.html HTTP/1.1\r\nHost: bench.test\r\n\r\n"
HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: bench.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
# A masked frame. The upstream echoes bytes, so the very same comes back.
MESSAGE = b"\x81\xc0\0\0\0\0" + bytes(33 + i % 90 for i in range(64))

Seen = dict[str, float | None]


def connect(port: int) -> socket.socket:
    connection = socket.create_connection((HOST, port), 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def read_head(connection: socket.socket) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("closed in a head")
        received += piece
    return received


def answer_length(received: bytes) -> int | None:
    """How long the whole answer is; `None` while the head is not there."""
    head, separator, _ = received.partition(b"\r\n\r\n")
    if not separator:
        return None
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ConnectionError(f"not 200: {head[:60]!r}")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return len(head) + len(separator) + int(length.partition(b":")[2])


def ask(
    connections: int,
    seconds: float,
    open_one: Callable[[], socket.socket],
    question: bytes,
    length: Callable[[bytes], int | None],
) -> Seen:
    """Asks on so many connections, on each as soon as it has its answer, and opens a new one for each that ends."""
    poll = select.epoll()
    sockets: dict[int, socket.socket] = {}
    asked: dict[int, float] = {}
    received: dict[int, bytes] = {}
    times: list[float] = []
    failures = 0

    def begin() -> None:
        connection = open_one()
        number = connection.fileno()
        sockets[number] = connection
        poll.register(number, select.EPOLLIN)
        send(number)

    def send(number: int) -> None:
        asked[number], received[number] = time.perf_counter(), b""
        sockets[number].sendall(question)

    def end(number: int) -> None:
        poll.unregister(number)
        sockets.pop(number).close()

    started = time.perf_counter()
    until = started + seconds
    while (now := time.perf_counter()) < until:
        try:
            while len(sockets) < connections:
                begin()
        except OSError:
            failures += 1
            continue
        for number, _ in poll.poll(until - now):
            try:
                piece = sockets[number].recv(65536)
                received[number] += piece
                if not piece:
                    raise ConnectionError("closed")
                whole = length(received[number])
                if whole is None or len(received[number]) < whole:
                    continue
                times.append(time.perf_counter() - asked[number])
                if b"\r\nConnection: close\r\n" in received[number]:
                    end(number)
                else:
                    send(number)
            except OSError:
                failures += 1
                end(number)
    times.sort()

    def percentile(share: int) -> float | None:
        return times[len(times) * share // 100] * 1e6 if times else None

    taken = time.perf_counter() - started
    return {"requests": len(times), "seconds": taken, "failures": failures, "p50_us": percentile(50), "p99_us": percentile(99)}


def messages(port: int, connections: int, seconds: float) -> Seen:
    def open_one() -> socket.socket:
        connection = connect(port)
        connection.sendall(HANDSHAKE)
        if b" 101 " not in read_head(connection):
            raise ConnectionError("no WebSocket")
        return connection

    return ask(connections, seconds, open_one, MESSAGE, lambda _: len(MESSAGE))


def steady(port: int, connections: int, seconds: float) -> Seen:
    return ask(connections, seconds, lambda: connect(port), REQUEST, answer_length)


def idle(port: int, connections: int, tls: bool) -> None:
    """Says when all stand, and lets go when it is told to, or when nobody is there any more to tell."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    kept = []
    for _ in range(connections):
        connection = connect(port)
        if tls:
            connection = context.wrap_socket(connection)
        connection.sendall(REQUEST)
        received = read_head(connection)
        while len(received) < (answer_length(received) or 0):
            received += connection.recv(65536)
        kept.append(connection)
    print(json.dumps({"connections": len(kept)}), flush=True)
    sys.stdin.readline()


def main() -> None:
    name, port, connections, more = sys.argv[1:5]
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if name == "idle":
        idle(int(port), int(connections), more == "tls")
        return
    play = {"messages": messages, "steady": steady}[name]
    print(json.dumps(play(int(port), int(connections), float(more))))


if __name__ == "__main__":
    main()

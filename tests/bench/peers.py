#!/usr/bin/env python3
"""Upstreams that nginx cannot play; a program of its own, so that it can be pinned.

    peers.py echo PORT    switches to a WebSocket and sends every byte back
    peers.py sink PORT    reads the body of each request to its end and answers with its length
    peers.py application PORT    speaks FastCGI: 1 KB for each request, whatever it asks
"""

import select
import socket
import sys
import threading

HOST = "127.0.0.1"
SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"


def echo(listener: socket.socket) -> None:
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    sockets: dict[int, socket.socket] = {}
    heads: dict[int, bytes] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[connection.fileno()], heads[connection.fileno()] = connection, b""
                poll.register(connection.fileno(), select.EPOLLIN)
                continue
            connection = sockets[number]
            try:
                piece = connection.recv(65536)
                if not piece:
                    raise ConnectionError("closed")
                if number in heads:
                    heads[number] += piece
                    if b"\r\n\r\n" in heads[number]:
                        del heads[number]
                        connection.sendall(SWITCH)
                else:
                    connection.sendall(piece)
            except OSError:
                poll.unregister(number)
                heads.pop(number, None)
                sockets.pop(number).close()


def sink(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=swallow, args=(connection,), daemon=True).start()


def swallow(connection: socket.socket) -> None:
    block = bytearray(1 << 20)
    received = b""
    with connection:
        while True:
            while b"\r\n\r\n" not in received:
                piece = connection.recv(65536)
                if not piece:
                    return
                received += piece
            head, _, rest = received.partition(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            length = int(lengths[0].partition(b":")[2]) if lengths else 0
            left = length - len(rest)
            while left > 0:
                count = connection.recv_into(block, min(left, len(block)))
                if count == 0:
                    return
                left -= count
            body = b"%d" % length
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            received = b""


def record(kind: int, content: bytes) -> bytes:
    """One record of FastCGI for the request 1, padded to eight bytes."""
    padding = -len(content) % 8
    return bytes((1, kind, 0, 1, *len(content).to_bytes(2), padding, 0)) + content + bytes(padding)


STDIN, STDOUT, END_REQUEST = 5, 6, 3
PAGE = bytes(33 + i % 90 for i in range(1024))
ANSWER = (
    record(STDOUT, b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(PAGE) + PAGE)
    + record(STDOUT, b"")
    + record(END_REQUEST, bytes(8))
)


def application(listener: socket.socket) -> None:
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    sockets: dict[int, tuple[socket.socket, bytearray]] = {}
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[connection.fileno()] = connection, bytearray()
                poll.register(connection.fileno(), select.EPOLLIN)
                continue
            connection, received = sockets[number]
            try:
                piece = connection.recv(65536)
                if not piece:
                    raise ConnectionError("closed")
                received += piece
                for _ in range(ended(received)):
                    connection.sendall(ANSWER)
            except OSError:
                poll.unregister(number)
                del sockets[number]
                connection.close()


def ended(received: bytearray) -> int:
    """Takes whole records off; how many of them ended a request, as an empty one of STDIN does."""
    at = count = 0
    while len(received) - at >= 8:
        length, padding = int.from_bytes(received[at + 4 : at + 6]), received[at + 6]
        if len(received) - at < 8 + length + padding:
            break
        count += received[at + 1] == STDIN and length == 0
        at += 8 + length + padding
    del received[:at]
    return count


def main() -> None:
    name, port = sys.argv[1:3]
    listener = socket.create_server((HOST, int(port)), backlog=1024)
    {"echo": echo, "sink": sink, "application": application}[name](listener)


if __name__ == "__main__":
    main()

"""Servers that read nginx.conf: their directory, their port, their start and their end.

In: a binary and the text of a configuration. Out: a process that listens. Whoever starts one ends it; nothing is left
behind, neither a process nor a file.
"""

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

HOST = "127.0.0.1"

# How long anything that should happen soon may take.
DEADLINE = 60.0

# Below what the kernel gives to outgoing connections, and always five digits.
PORTS = range(11_000, 21_000)

# Every file was last changed then, so that ETag and Last-Modified are the same on both sides.
MODIFIED = 1_700_000_000


class Fault(Exception):
    """What keeps a figure from being had, in words for the terminal."""


def free_port() -> int:
    """A port that nobody listens on."""
    for port in random.sample(PORTS, 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise Fault(f"no free port in {PORTS.start}..{PORTS.stop}")


class Directory:
    """A directory of our own, whose path is `length` bytes long wherever temporary files are kept: paths cost by the byte."""

    def __init__(self, parent: str | None = None, length: int = 64) -> None:
        place = Path(parent or tempfile.gettempdir()).resolve()
        padding = max(1, length - len(f"{place}/") - 8)  # mkdtemp adds eight letters
        self.path = Path(tempfile.mkdtemp(prefix="b" * padding, dir=place))
        self.path.chmod(0o755)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.path, ignore_errors=True)


def put(path: Path, content: bytes) -> None:
    """Writes a file of a document root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (MODIFIED, MODIFIED))


class Program:
    """A running program that listens on a port, in a directory and a session of its own."""

    def __init__(self, command: list[str], prefix: Path, port: int) -> None:
        self.command, self.prefix, self.port = command, prefix, port
        prefix.mkdir(parents=True, exist_ok=True)
        with open(prefix / "stderr", "wb") as said:
            self.process = subprocess.Popen(
                command, cwd=prefix, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
            )
        try:
            self.connect().close()
        except BaseException:
            self.kill()
            raise

    def connect(self) -> socket.socket:
        """A connection to the program, which may still be starting."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                connection = socket.create_connection((HOST, self.port), DEADLINE)
            except ConnectionRefusedError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise Fault(f"{' '.join(self.command)} did not start\n{self.said()}") from None
                time.sleep(0.02)  # the pace of looking
            else:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection

    def said(self) -> str:
        """The end of what the program had to say."""
        texts = [self.prefix / name for name in ("stderr", "logs/error.log")]
        return "".join(text.read_text(errors="replace")[-600:] for text in texts if text.exists()).strip()

    def kill(self) -> None:
        """Ends the program and all that it started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()


class Server(Program):
    """A server that reads nginx.conf. `wrap` is a command that runs it: of a tool that watches it, or that pins it."""

    def __init__(self, binary: Path, prefix: Path, conf: str, port: int, wrap: list[str]) -> None:
        for name in ("conf", "html", "logs", "temp"):
            (prefix / name).mkdir(parents=True, exist_ok=True)
        (prefix / "conf/nginx.conf").write_text(conf)
        super().__init__([*wrap, str(binary), "-p", f"{prefix}/", "-c", "conf/nginx.conf"], prefix, port)

    def pid(self) -> int:
        """Of the process that takes signals: below a tool it is not the one that was started."""
        return int((self.prefix / "logs/pid").read_text())

    def stop(self) -> None:
        """Ends the server as an operator would."""
        if self.process.poll() is None:
            os.kill(self.pid(), signal.SIGTERM)
        try:
            self.process.wait(DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise Fault(f"the server did not end\n{self.said()}") from None

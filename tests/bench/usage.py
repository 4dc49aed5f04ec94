"""What a server has used: processor time and memory of all processes of its session, from /proc.

In: the session, which is the pid that `servers.Server` started. Out: seconds and bytes. Processor time of threads that
live all along is exact to the nanosecond; where a thread came or went in between, it is what the kernel's clock ticks say,
children that have ended included.
"""

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Usage:
    """Processor time up to a moment."""

    ticks: float
    """Seconds of all processes and of their children that have ended."""
    threads: dict[int, float]
    """Seconds of each thread that lives."""

    def since(self, before: "Usage") -> float:
        """Seconds of processor time between two moments."""
        if self.threads.keys() == before.threads.keys():
            return sum(self.threads.values()) - sum(before.threads.values())
        return self.ticks - before.ticks

    def busiest_since(self, before: "Usage") -> float:
        """Seconds of the thread that had most to do between two moments."""
        return max(now - before.threads.get(thread, 0.0) for thread, now in self.threads.items())


def members(session: int) -> list[int]:
    """The processes of a session."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                if int(fields(int(name))[3]) == session:
                    found.append(int(name))
    return found


def usage(session: int) -> Usage:
    ticks, threads = 0, {}
    for pid in members(session):
        with contextlib.suppress(OSError, IndexError):
            ticks += sum(int(word) for word in fields(pid)[11:15])
            for thread in os.listdir(f"/proc/{pid}/task"):
                spent = Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0]
                threads[int(thread)] = int(spent) / 1e9
    return Usage(ticks / TICK, threads)


def memory(session: int) -> int:
    """Bytes that the session's processes have, those that several share counted once."""
    total = 0
    for pid in members(session):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
    return total


def fields(pid: int) -> list[str]:
    """What /proc/PID/stat says, from the state on: the name before it may contain anything."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()

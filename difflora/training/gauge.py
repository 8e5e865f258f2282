"""Memory in use and how busy the device is."""

from __future__ import annotations

import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import torch

STATM = Path("/proc/self/statm")


class Gauge:
    """Reads the device a training runs on; cheap enough for every step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.last = (time.perf_counter(), time.process_time())
        self.asked = float("-inf")
        self.busy: float | None = None

    def read(self) -> tuple[float, float | None]:
        """(memory in use in GB, share of the device at work 0..1 or None where that cannot be known)."""
        if self.device.type == "cuda":
            return torch.cuda.memory_allocated(self.device) / 1e9, self._gpu()
        return resident(), self._cpu()

    def _cpu(self) -> float | None:
        """This process's share of the cores it may use, since half a second ago at least."""
        now = (time.perf_counter(), time.process_time())
        wall, work = now[0] - self.last[0], now[1] - self.last[1]
        if wall > 0.5:
            self.busy, self.last = min(1.0, work / wall / cores()), now
        return self.busy

    def _gpu(self) -> float | None:
        """The device's own figure, asked for twice a second at most: asking takes as long as a small step."""
        now = time.perf_counter()
        if now - self.asked > 0.5:
            self.busy, self.asked = None, now
            # Needs a package of NVIDIA's that not every installation has.
            with suppress(Exception):
                self.busy = torch.cuda.utilization(self.device) / 100
        return self.busy


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def resident() -> float:
    """Memory of this process in GB: now, or at its most where the system does not tell."""
    with suppress(OSError, ValueError, IndexError):
        return int(STATM.read_text().split()[1]) * resource.getpagesize() / 1e9
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e9 if sys.platform == "darwin" else 1e6)

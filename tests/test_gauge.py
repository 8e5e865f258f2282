"""What the gauge reads while a training runs."""

from __future__ import annotations

import time
from mmap import mmap

import pytest
import torch

from difflora.training import gauge
from difflora.training.gauge import Gauge, cores, resident


@pytest.fixture
def clock(monkeypatch) -> dict[str, float]:
    """Wall and work time that stand still until they are set."""
    now = {"wall": 100.0, "work": 10.0}
    monkeypatch.setattr(gauge.time, "perf_counter", lambda: now["wall"])
    monkeypatch.setattr(gauge.time, "process_time", lambda: now["work"])
    monkeypatch.setattr(gauge, "cores", lambda: 4)
    return now


def test_memory_in_use_rises_with_what_is_held():
    before, _ = Gauge(torch.device("cpu")).read()
    # Not a tensor: the allocator may give it memory that this process already has.
    held = mmap(-1, 100_000_000)
    held.write(bytes(100_000_000))
    after, _ = Gauge(torch.device("cpu")).read()
    assert after - before == pytest.approx(0.1, rel=0.2)
    held.close()


def test_busy_is_the_share_of_all_cores_since_half_a_second_ago_at_least(clock):
    read = Gauge(torch.device("cpu"))
    assert read.read()[1] is None
    clock["wall"], clock["work"] = 100.4, 10.4
    assert read.read()[1] is None
    clock["wall"], clock["work"] = 101.0, 12.0
    assert read.read()[1] == pytest.approx(0.5)
    clock["wall"], clock["work"] = 101.1, 12.0
    assert read.read()[1] == pytest.approx(0.5)
    clock["wall"], clock["work"] = 102.0, 12.4
    assert read.read()[1] == pytest.approx(0.1)


def test_busy_is_never_more_than_all_of_it(clock):
    read = Gauge(torch.device("cpu"))
    clock["wall"], clock["work"] = 101.0, 99.0
    assert read.read()[1] == 1.0


def test_a_system_that_tells_no_memory_of_now_gives_the_most_there_was(monkeypatch, tmp_path):
    monkeypatch.setattr(gauge, "STATM", tmp_path / "nothing")
    assert 0.01 < resident() < 1000


def test_a_gpu_without_the_package_that_tells_its_load_is_busy_to_an_unknown_degree(monkeypatch):
    def missing(device):
        raise ModuleNotFoundError("pynvml")

    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 3e9)
    monkeypatch.setattr(torch.cuda, "utilization", missing)
    assert Gauge(torch.device("cuda")).read() == (3.0, None)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: 40)
    assert Gauge(torch.device("cuda")).read() == (3.0, 0.4)


def test_reading_costs_less_than_a_millisecond():
    read, start = Gauge(torch.device("cpu")), time.perf_counter()
    for _ in range(100):
        read.read()
    assert (time.perf_counter() - start) / 100 < 1e-3
    assert cores() >= 1


def test_a_gpu_is_asked_for_its_load_twice_a_second_at_most(monkeypatch, clock):
    asked = []
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 1e9)
    monkeypatch.setattr(torch.cuda, "utilization", lambda device: asked.append(device) or 40)
    read = Gauge(torch.device("cuda"))
    for wall in (100.0, 100.2, 100.4, 100.6, 100.8, 101.2):
        clock["wall"] = wall
        assert read.read() == (1.0, 0.4)
    assert len(asked) == 3

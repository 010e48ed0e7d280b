"""Figures of a service in Prometheus' text form, version 0.0.4."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from threading import Lock

from experiments.serve.batches import Batches
from experiments.serve.service import Service

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
SURPRISE = tuple(k / 20 for k in range(1, 20))  # it lies below 1
U_NORM = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0)


class Histogram:
    """Numbers of values up to each of `bounds`, and their sum."""

    def __init__(self, bounds: Sequence[float], values: Iterable[float] = ()) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0
        for value in values:
            self.add(value)

    def add(self, value: float) -> None:
        """Count one more value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        """Its series."""
        so_far, found = 0, []
        for bound, count in zip([*map(str, self.bounds), "+Inf"], self.counts, strict=True):
            so_far += count
            found.append(f'{name}_bucket{{le="{bound}"}} {so_far}')
        return [*found, f"{name}_sum {self.sum!r}", f"{name}_count {so_far}"]


class Requests:
    """Requests by path and status, and how long they took; any thread may count."""

    def __init__(self) -> None:
        self.lock = Lock()
        self.counts: Counter[tuple[str, int]] = Counter()
        self.seconds = Histogram(SECONDS)

    def add(self, path: str, status: int, seconds: float) -> None:
        """Count one more request."""
        with self.lock:
            self.counts[path, status] += 1
            self.seconds.add(seconds)


def text(service: Service, batches: Batches, requests: Requests) -> str:
    """Everything, as `/metrics` returns it; no label holds a key."""
    surprise, u_norm = service.signals()
    with requests.lock:
        counts = Counter(requests.counts)
        seconds = requests.seconds.lines("dream_request_seconds")
    rows = {
        f'operation="{name}",result="{result}"': count for (name, result), count in service.counts().items()
    }
    paths = {f'path="{path}",status="{status}"': count for (path, status), count in counts.items()}
    parts = [
        _counter("dream_rows_total", "Rows by operation and result.", rows),
        _counter("dream_requests_total", "Requests by path and status.", paths),
        [*_head("dream_request_seconds", "histogram", "Time from request to answer."), *seconds],
        _gauge("dream_queue_rows", "Rows that wait to be answered.", batches.rows),
        _gauge("dream_streams", "Streams in memory.", len(service.streams.held)),
        _gauge("dream_unflushed_rows", "Rows that were learnt and are not on disk.", service.streams.waiting),
        _counter("dream_flushes_total", "Flushes to disk.", {"": service.flushes}),
        _counter("dream_flush_seconds_total", "Time that they took.", {"": service.flush_seconds}),
        _counter("dream_flush_failures_total", "Flushes that failed.", {"": service.failures}),
        [
            *_head("dream_stream_surprise", "histogram", "Running surprise now, over the streams in memory."),
            *Histogram(SURPRISE, surprise).lines("dream_stream_surprise"),
        ],
        [
            *_head("dream_stream_u_norm", "histogram", "Norm of U now, over the streams in memory."),
            *Histogram(U_NORM, u_norm).lines("dream_stream_u_norm"),
        ],
    ]
    return "".join(f"{line}\n" for part in parts for line in part)


def _head(name: str, kind: str, meaning: str) -> list[str]:
    return [f"# HELP {name} {meaning}", f"# TYPE {name} {kind}"]


def _counter(name: str, meaning: str, values: Mapping[str, float]) -> list[str]:
    series = [
        f"{name}{{{labels}}} {value}" if labels else f"{name} {value}" for labels, value in values.items()
    ]
    return [*_head(name, "counter", meaning), *series]


def _gauge(name: str, meaning: str, value: float) -> list[str]:
    return [*_head(name, "gauge", meaning), f"{name} {value}"]

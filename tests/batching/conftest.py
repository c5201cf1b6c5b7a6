"""Benches that are stopped after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.batching.bench import Bench

from inserve.batching.options import BatchingOptions


@pytest.fixture
def make_bench() -> Iterator[Callable[..., Bench]]:
    benches: list[Bench] = []

    def make(options: BatchingOptions | None = None, **more: Any) -> Bench:
        chosen = BatchingOptions(num_batch_threads=1) if options is None else options
        benches.append(Bench(chosen, **more))
        return benches[-1]

    yield make
    for bench in benches:
        bench.stop()

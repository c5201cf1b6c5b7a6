"""Starts the children of ``overview_children.py``, asks them to measure, and takes turns among ways."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from overview_load import Load

_CHILDREN = Path(__file__).with_name("overview_children.py")
_END_S = 20.0
Key = TypeVar("Key")


class Child:
    """One measured process of the *kind* given; ends with the ``with`` block."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the child
        self._process = subprocess.Popen(
            [sys.executable, str(_CHILDREN), kind],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": ""},
        )
        self._ports: dict[str, int] | None = None

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            self._process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    @property
    def ports(self) -> dict[str, int]:
        """The ports by name; blocks until the child is ready, so that several can start together."""
        if self._ports is None:
            self._ports = self._read()
        return self._ports

    def measure(self, way: str, model: str, length_s: float, callers: int = 1) -> Load:
        """Return what a closed loop in the child achieves."""
        stdin, _ = self._process.stdin, self.ports
        assert stdin is not None
        stdin.write(json.dumps([way, model, length_s, callers]) + "\n")
        stdin.flush()
        return Load(**self._read())

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._errors.seek(0)
            raise RuntimeError(f"the process {self.kind!r} ended:\n{self._errors.read()[-4000:]}")
        return json.loads(line)


def take_turns(
    ways: Mapping[Key, Callable[[], Load]], rounds: int, progress: Callable[[str], None]
) -> dict[Key, list[Load]]:
    """Return one figure a round of each way; the ways take turns, so that noise meets all of them."""
    loads: dict[Key, list[Load]] = {key: [] for key in ways}
    for number in range(rounds):
        progress(f"round {number + 1} of {rounds}")
        for key, measure in ways.items():
            loads[key].append(measure())
    return loads

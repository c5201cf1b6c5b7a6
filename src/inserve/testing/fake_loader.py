"""A loader that does what it is told and notices misuse."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from inserve.resources.allocation import ResourceAllocation

__all__ = ["FakeLoader", "Gate"]

_GATE_LIMIT_S = 30.0


class Gate:
    """Holds a thread until it is opened; open from then on."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def enter(self) -> None:
        """Block until the gate is open.

        Raises:
            TimeoutError: It was not opened.
        """
        self._entered.set()
        if not self._opened.wait(_GATE_LIMIT_S):
            raise TimeoutError(f"the gate was not opened within {_GATE_LIMIT_S} s")

    def open(self) -> None:
        """Let through whoever is in ``enter`` and all who come later."""
        self._opened.set()

    def block_until_entered(self) -> None:
        """Return once a thread is at the gate, or went through.

        Raises:
            TimeoutError: None came.
        """
        if not self._entered.wait(_GATE_LIMIT_S):
            raise TimeoutError(f"nobody came to the gate within {_GATE_LIMIT_S} s")


class FakeLoader:
    """A ``Loader`` of *servable*.

    The first attempts to load raise *load_errors* in turn, the first estimates *estimate_errors*;
    both may be added to. *held* is what a load returns. *load_gate* and *unload_gate* hold their calls.
    ``calls`` is what was called, in order; ``violations`` tells of calls that overlapped or did not
    alternate.
    """

    def __init__(
        self,
        servable: Any = None,
        *,
        estimate: ResourceAllocation | None = None,
        held: ResourceAllocation | None = None,
        load_errors: Iterable[Exception] = (),
        estimate_errors: Iterable[Exception] = (),
        unload_error: Exception | None = None,
        load_gate: Gate | None = None,
        unload_gate: Gate | None = None,
    ) -> None:
        self.estimate = ResourceAllocation() if estimate is None else estimate
        self.held = held
        self.load_errors = list(load_errors)
        self.estimate_errors = list(estimate_errors)
        self.unload_error = unload_error
        self.calls: list[str] = []
        self.thread_names: list[str] = []
        self.violations: list[str] = []
        self.is_loaded = False
        self._servable = servable
        self._load_gate = load_gate
        self._unload_gate = unload_gate
        self._busy = threading.Lock()

    def estimate_resources(self) -> ResourceAllocation:
        with _Call(self, "estimate_resources", must_be_loaded=False):
            if self.estimate_errors:
                raise self.estimate_errors.pop(0)
            return self.estimate

    def load(self) -> ResourceAllocation | None:
        with _Call(self, "load", must_be_loaded=False):
            if self._load_gate is not None:
                self._load_gate.enter()
            if self.load_errors:
                raise self.load_errors.pop(0)
            self.is_loaded = True
        return self.held

    def unload(self) -> None:
        with _Call(self, "unload", must_be_loaded=True):
            if self._unload_gate is not None:
                self._unload_gate.enter()
            self.is_loaded = False
            if self.unload_error is not None:
                raise self.unload_error

    def servable(self) -> Any:
        if not self.is_loaded:
            self.violations.append("servable while not loaded")
        return self._servable


class _Call:
    """Notes one call of a loader, on whatever thread, and whether it was right."""

    def __init__(self, loader: FakeLoader, name: str, must_be_loaded: bool) -> None:
        self._loader = loader
        self._name = name
        self._must_be_loaded = must_be_loaded
        self._alone = False

    def __enter__(self) -> None:
        loader = self._loader
        self._alone = loader._busy.acquire(blocking=False)
        if not self._alone:
            loader.violations.append(f"{self._name} during another call")
        if loader.is_loaded is not self._must_be_loaded:
            loader.violations.append(f"{self._name} while {'' if loader.is_loaded else 'not '}loaded")
        loader.calls.append(self._name)
        loader.thread_names.append(threading.current_thread().name)

    def __exit__(self, *_: object) -> None:
        if self._alone:
            self._loader._busy.release()

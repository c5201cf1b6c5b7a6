"""Fakes for tests of what is built on inserve."""

from inserve.testing.deferred_runner import DeferredRunner
from inserve.testing.fake_loader import FakeLoader, Gate
from inserve.testing.manager_bench import ManagerBench
from inserve.testing.manual_clock import ManualClock

__all__ = ["DeferredRunner", "FakeLoader", "Gate", "ManagerBench", "ManualClock"]

"""The books of the resource guard: reserve before a load, release after the unload.

Rules: TensorFlow Serving, ``resources/resource_tracker.h``. Its server has a budget without end and
never refuses a model; here the budget is what the process may really use, unless it is given.
"""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping
from types import MappingProxyType

from inserve.errors import ResourceExhaustedError
from inserve.resources.allocation import MAIN_MEMORY, ResourceAllocation
from inserve.resources.memory_limit import memory_limit_bytes

__all__ = ["ResourceTracker"]


class ResourceTracker:
    """Keeps the sum of all reservations within a budget. Any thread may call.

    *budget* is bytes by device; a device it does not name is not limited. None means the RAM that
    this process may use (``memory_limit_bytes``). Owners are any hashable keys, here servable ids;
    each has at most one reservation.
    """

    def __init__(self, budget: Mapping[str, int] | None = None) -> None:
        self._budget = MappingProxyType(
            {MAIN_MEMORY: memory_limit_bytes()} if budget is None else dict(budget)
        )
        self._lock = threading.Lock()
        self._reservations: dict[Hashable, ResourceAllocation] = {}
        self._used = ResourceAllocation()

    @property
    def budget(self) -> Mapping[str, int]:
        return self._budget

    @property
    def used(self) -> ResourceAllocation:
        """The sum of all reservations."""
        return self._used

    @property
    def reservations(self) -> Mapping[Hashable, ResourceAllocation]:
        """A copy of what each owner holds."""
        with self._lock:
            return dict(self._reservations)

    def limit(self, device: str, amount_bytes: int) -> None:
        """Let all reservations on *device* together have *amount_bytes* at most, unless it has a limit."""
        with self._lock:
            self._budget = MappingProxyType({device: amount_bytes, **self._budget})

    def reserve(self, owner: Hashable, allocation: ResourceAllocation) -> None:
        """Book *allocation* for *owner*.

        Raises:
            ResourceExhaustedError: It does not fit beside what is reserved; nothing was booked.
            ValueError: *owner* has a reservation.
        """
        with self._lock:
            if owner in self._reservations:
                raise ValueError(f"expected an owner without a reservation, {owner} has one")
            used = self._used + allocation
            exceeded = used.exceeded_devices(self._budget)
            if exceeded:
                raise ResourceExhaustedError(
                    "; ".join(self._refusal(device, allocation) for device in exceeded)
                )
            self._reservations[owner] = allocation
            self._used = used

    def book_anew(self, owner: Hashable, allocation: ResourceAllocation) -> None:
        """Book *allocation* for *owner* instead of what it holds, also beyond the budget: it is in use.

        Raises:
            ValueError: *owner* has no reservation.
        """
        with self._lock:
            if owner not in self._reservations:
                raise ValueError(f"expected an owner with a reservation, {owner} has none")
            self._used = self._used - self._reservations[owner] + allocation
            self._reservations[owner] = allocation

    def release(self, owner: Hashable) -> None:
        """Give back what *owner* holds; nothing happens if that is nothing."""
        with self._lock:
            allocation = self._reservations.pop(owner, None)
            if allocation is not None:
                self._used = self._used - allocation

    def _refusal(self, device: str, allocation: ResourceAllocation) -> str:
        budget = self._budget[device]
        available = budget - self._used.bytes_on(device)
        return (
            f"{allocation.bytes_on(device)} bytes needed on device {device}, "
            f"{available} available of a budget of {budget}"
        )

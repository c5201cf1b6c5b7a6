"""Where the replicas of a model are, and what they take there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["MOST_REPLICAS", "replicated_bytes", "spread_replicas"]

MOST_REPLICAS = 64

_MAIN_MEMORY = "main"


def spread_replicas(replicas: Mapping[str, int]) -> tuple[str, ...]:
    """Return the device of each replica, the devices in turn; *replicas* says how many each one has.

    Raises:
        ValueError: There is none, a number is below 1, or there are more than ``MOST_REPLICAS``.
        TypeError: A number is none.
    """
    for device, number in replicas.items():
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"expected a number of replicas on {device}, got {number!r}")
        if number < 1:
            raise ValueError(f"expected at least 1 replica on {device}, got {number}")
    total = sum(replicas.values())
    if not 1 <= total <= MOST_REPLICAS:
        raise ValueError(f"expected 1 to {MOST_REPLICAS} replicas, got {total}")
    rounds = range(max(replicas.values()))
    return tuple(device for turn in rounds for device, number in replicas.items() if turn < number)


def replicated_bytes(model_bytes: int, devices: Sequence[str]) -> dict[str, int]:
    """Return the bytes by device that a model of *model_bytes* takes with replicas on *devices*.

    Devices are named ``GPU:0`` there and ``gpu:0`` here; replicas on a CPU are in ``main`` memory. So is
    one copy beside replicas on accelerators only: a load goes through it, one replica after the other.
    """
    taken = {_MAIN_MEMORY: 0}
    for device in devices:
        name = _MAIN_MEMORY if device.upper().startswith("CPU") else device.lower()
        taken[name] = taken.get(name, 0) + model_bytes
    taken[_MAIN_MEMORY] = taken[_MAIN_MEMORY] or model_bytes
    return taken

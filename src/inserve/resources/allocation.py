"""Bytes per device: what a servable needs, what a machine has."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["MAIN_MEMORY", "ResourceAllocation"]

MAIN_MEMORY = "main"
"""The device whose bytes are the machine's RAM, as TensorFlow Serving names it."""


class ResourceAllocation:
    """An immutable number of bytes for each device; a device not named has 0.

    Devices are ``main`` (RAM) and names such as ``gpu:0``. An amount of 0 is the same as none.

    Raises:
        ValueError: An amount is negative.
    """

    __slots__ = ("_bytes_by_device",)

    def __init__(self, bytes_by_device: Mapping[str, int] | None = None) -> None:
        amounts = dict(bytes_by_device or {})
        for device, amount in amounts.items():
            if amount < 0:
                raise ValueError(f"expected at least 0 bytes on device {device}, got {amount}")
        self._bytes_by_device: Mapping[str, int] = MappingProxyType(
            {device: amounts[device] for device in sorted(amounts) if amounts[device]}
        )

    @classmethod
    def of_ram(cls, ram_bytes: int) -> ResourceAllocation:
        """Return *ram_bytes* of main memory."""
        return cls({MAIN_MEMORY: ram_bytes})

    @property
    def bytes_by_device(self) -> Mapping[str, int]:
        return self._bytes_by_device

    def bytes_on(self, device: str) -> int:
        """Return the bytes on *device*."""
        return self._bytes_by_device.get(device, 0)

    def __add__(self, other: ResourceAllocation) -> ResourceAllocation:
        devices = self._bytes_by_device.keys() | other._bytes_by_device.keys()
        return ResourceAllocation(
            {device: self.bytes_on(device) + other.bytes_on(device) for device in devices}
        )

    def __sub__(self, other: ResourceAllocation) -> ResourceAllocation:
        """Return the difference.

        Raises:
            ValueError: *other* has more of some device.
        """
        devices = self._bytes_by_device.keys() | other._bytes_by_device.keys()
        return ResourceAllocation(
            {device: self.bytes_on(device) - other.bytes_on(device) for device in devices}
        )

    def exceeded_devices(self, limits: Mapping[str, int]) -> tuple[str, ...]:
        """Return the devices of which this is more than *limits* has, in bytes, in order of name.

        A device that *limits* does not name is not limited.
        """
        return tuple(
            device
            for device, amount in self._bytes_by_device.items()
            if device in limits and amount > limits[device]
        )

    def fits(self, limits: Mapping[str, int]) -> bool:
        """Return whether *limits*, in bytes, is enough; a device that it does not name is not limited."""
        return not self.exceeded_devices(limits)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ResourceAllocation):
            return NotImplemented
        return self._bytes_by_device == other._bytes_by_device

    def __hash__(self) -> int:
        return hash(tuple(self._bytes_by_device.items()))

    def __repr__(self) -> str:
        return f"ResourceAllocation({dict(self._bytes_by_device)})"

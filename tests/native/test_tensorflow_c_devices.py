from __future__ import annotations

from inserve.tensorflow_c.devices import list_devices

NO_GPU = b"\x0a\x07\x0a\x03GPU\x10\x00"
"""``ConfigProto(device_count={"GPU": 0})``."""


def test_a_process_has_one_cpu_and_says_what_it_is() -> None:
    (cpu,) = [device for device in list_devices() if device.device_type == "CPU"]
    assert cpu.name == "/job:localhost/replica:0/task:0/device:CPU:0"
    assert cpu.memory_bytes > 0


def test_the_devices_are_those_the_config_allows() -> None:
    assert [device.device_type for device in list_devices(NO_GPU)] == ["CPU"]

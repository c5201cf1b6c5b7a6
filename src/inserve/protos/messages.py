"""Every message class and top-level enum by its own name: ``messages.PredictRequest``.

A class is made when it is first asked for. ``messages.pyi``, generated, tells type checkers what
there is. Names of nested types and enum values are attributes of the class that declares them.
"""

from __future__ import annotations

from inserve.protos import pool


def __getattr__(name: str) -> object:
    full_name = None if name.startswith("__") else pool.top_level_types().get(name)
    if full_name is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object
    try:
        value = pool.message_class(full_name)
    except KeyError:
        value = pool.enum_type(full_name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(pool.top_level_types())

"""Hands inputs of every sort of shape to LiteRT; ends well if each is answered or refused.

usage: python shapes_child.py FOLDER MODEL

Prints how many were answered, and how many refused.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np

from inserve.errors import InserveError
from inserve.tensors.dtypes import DataType
from inserve.tflite.load_tflite import load_tflite
from inserve.tflite.signature_defs import name_endpoints
from inserve.tflite.tflite_file import parse_tflite_file

SIZES = (0, 1, 2, 3, 8, 64)
VAST = (
    (1 << 31, 0),
    ((1 << 31) - 1, 0),
    (0, (1 << 31) - 1),
    (0, 1 << 20, 1 << 20),
    (1 << 40, 0, 4),
    (0,) * 6,
)
SHAPES = (
    *(shape for rank in range(3) for shape in itertools.product(SIZES, repeat=rank)),
    *((rows, height, 8, channels) for rows in SIZES for height in SIZES for channels in (0, 1, 2, 3)),
    *((1,) * rank for rank in range(5, 65)),
    *VAST,
)


def try_all(path: Path) -> tuple[int, int]:
    """Return how many shapes were answered, and how many refused."""
    endpoints = name_endpoints(parse_tflite_file(path.read_bytes()))
    model = load_tflite(str(path), 1)
    answered = refused = 0
    for number in sorted({endpoint.subgraph for endpoint in endpoints.inputs.values()}):
        feeds = [(name, one.tensor) for name, one in endpoints.inputs.items() if one.subgraph == number]
        fetches = [name for name, one in endpoints.outputs.items() if one.subgraph == number]
        types = [tensor.data_type or DataType.DT_INVALID for _, tensor in feeds]
        runner = model.session.runner([(name, t) for (name, _), t in zip(feeds, types, strict=True)], fetches)
        dtypes = [dtype for _, dtype in runner.feeds]
        for shape in SHAPES:
            arrays = [
                np.full(shape, b"x", np.object_) if dtype == np.object_ else np.zeros(shape, dtype)
                for dtype in dtypes
            ]
            try:
                runner.run(arrays)
                answered += 1
            except InserveError:
                refused += 1
    model.close()
    return answered, refused


if __name__ == "__main__":
    print(*try_all(Path(sys.argv[1]) / sys.argv[2] / "model.tflite"))

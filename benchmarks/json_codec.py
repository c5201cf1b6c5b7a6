"""The JSON codec of the REST API, in units of orjson and NumPy on the same data.

Reading is parsing and binding to a signature, from bytes to an array of the signature's dtype; writing
is from arrays to bytes. Images are also read with the garbage collector on, as a server runs: what a parser
costs includes what its objects cost.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Callable

import numpy as np
import orjson
from measure import compare, microseconds, ratio, report

from inserve.errors import InvalidArgumentError
from inserve.tensors.dtypes import DataType
from inserve.tensors.json_predict import encode_predict_response, parse_predict_body

FLOAT = {"x": DataType.DT_FLOAT}
IMAGES = {"28x28x1": (1, 28, 28, 1), "224x224x3": (1, 224, 224, 3)}


def as_numpy_reads(body: bytes) -> Callable[[], object]:
    return lambda: np.array(orjson.loads(body)["instances"], np.float32)


def bind(body: bytes, data_types: dict[str, int] | dict[str, DataType]) -> Callable[[], object]:
    return lambda: parse_predict_body(body).bind(data_types)


def collected(function: Callable[[], object]) -> Callable[[], object]:
    def call() -> object:
        gc.enable()
        try:
            return function()
        finally:
            gc.disable()

    return call


def refuse(body: bytes) -> Callable[[], object]:
    def call() -> str:
        try:
            parse_predict_body(body).bind(FLOAT)
        except InvalidArgumentError as error:
            return error.message
        raise AssertionError(body)

    return call


def read_images() -> None:
    random = np.random.default_rng(1)
    for name, shape in IMAGES.items():
        image = random.random(shape)
        bodies = {
            "orjson": orjson.dumps({"instances": image}, option=orjson.OPT_SERIALIZE_NUMPY),
            "json.dumps": json.dumps({"instances": image.tolist()}).encode(),
            "float32": orjson.dumps(
                {"instances": image.astype(np.float32)}, option=orjson.OPT_SERIALIZE_NUMPY
            ),
            "integers": json.dumps({"instances": (image * 255).astype(int).tolist()}).encode(),
        }
        for printer, body in bodies.items():
            assert np.array_equal(bind(body, FLOAT)()["x"], as_numpy_reads(body)())  # type: ignore[index]
            reference, ours = as_numpy_reads(body), bind(body, FLOAT)
            figures = compare(
                {
                    "reference": reference,
                    "inserve": ours,
                    "collected reference": collected(reference),
                    "collected": collected(ours),
                }
            )
            what = f"read {name}, {printer} / orjson and np.array"
            report(what, ratio(figures, "inserve", "reference"), 0.35)
            report(f"{what}, collecting", ratio(figures, "collected", "collected reference"), 0.3)
        rows = image.tolist()
        named = {
            "in a row object": json.dumps({"instances": [{"x": row} for row in rows]}).encode(),
            "in an inputs object": json.dumps({"inputs": {"x": rows}}).encode(),
        }
        plain = bodies["json.dumps"]
        for form, body in named.items():
            figures = compare({"reference": as_numpy_reads(plain), "inserve": bind(body, FLOAT)})
            what = f"read {name} {form} / orjson and np.array"
            report(what, ratio(figures, "inserve", "reference"), 0.4)
        del rows[0][-1][-1]
        ragged = json.dumps({"instances": rows}).encode()
        figures = compare({"reference": as_numpy_reads(plain), "inserve": refuse(ragged)}, rounds=5)
        report(f"refuse {name}, ragged / orjson and np.array", ratio(figures, "inserve", "reference"), 20)


def read_others() -> None:
    small = b'{"instances": [1.0, 2.0, 5.0]}'
    texts = [f"sentence {number}: some words" for number in range(10_000)]
    strings = json.dumps({"instances": texts}).encode()
    coded = json.dumps({"instances": [{"b64": "aGVsbG8gd29ybGQ="}] * 10_000}).encode()
    rows = json.dumps({"instances": [{"a": 1.5, "b": [1.0, 2.0, 3.0]}] * 1000}).encode()
    numbers = np.random.default_rng(1).random(100_000).astype("U")
    with_nan = b'{"instances":[NaN,' + ",".join(numbers).encode() + b"]}"
    text, pair = {"s": DataType.DT_STRING}, {"a": DataType.DT_FLOAT, "b": DataType.DT_FLOAT}
    cases = {
        "read 3 floats / orjson.loads": (small, FLOAT, small, 35.0),
        "read 10,000 strings / orjson.loads": (strings, text, strings, 15.0),
        "read 10,000 base64 objects / orjson.loads": (coded, text, coded, 25.0),
        "read 1,000 row objects / orjson.loads": (rows, pair, rows, 12.0),
        "read 100,000 floats and a NaN / orjson.loads": (
            with_nan,
            FLOAT,
            with_nan.replace(b"NaN", b"1.5"),
            60.0,
        ),
    }
    for what, (body, data_types, plain, limit) in cases.items():
        figures = compare(
            {"reference": lambda plain=plain: orjson.loads(plain), "inserve": bind(body, data_types)}
        )
        print(f"{'':<40}{microseconds(figures['inserve'])}")
        report(what, ratio(figures, "inserve", "reference"), limit)


def write() -> None:
    random = np.random.default_rng(1)
    option = orjson.OPT_SERIALIZE_NUMPY
    for name, values in {
        "100,000 float32": random.random(100_000).astype(np.float32),
        "100,000 float64": random.random((100, 1000)),
        "100,000 int64": random.integers(-(2**60), 2**60, 100_000),
        "3 float32": random.random(3).astype(np.float32),
    }.items():
        data_type = {"f": DataType.DT_FLOAT, "d": DataType.DT_DOUBLE, "l": DataType.DT_INT64}[
            values.dtype.char
        ]
        figures = compare(
            {
                "reference": lambda values=values: orjson.dumps(values, option=option),
                "inserve": lambda values=values, kind=data_type: encode_predict_response(
                    [("y", values)], [kind], True
                ),
            }
        )
        report(
            f"write {name} / orjson.dumps",
            ratio(figures, "inserve", "reference"),
            1.3 if values.size > 3 else 6,
        )
    texts = [f"sentence {number}" for number in range(10_000)]
    strings = np.array([text.encode() for text in texts], np.object_)
    figures = compare(
        {
            "reference": lambda: orjson.dumps(texts),
            "inserve": lambda: encode_predict_response([("y", strings)], [DataType.DT_STRING], True),
        }
    )
    report("write 10,000 strings / orjson.dumps", ratio(figures, "inserve", "reference"), 20)


def main() -> None:
    read_images()
    read_others()
    write()


if __name__ == "__main__":
    main()

"""Strings on the wire: a PredictRequest and a PredictResponse of 10,000 strings of 40 bytes, medians."""

from __future__ import annotations

import numpy as np
from measure import compare, microseconds, report

from inserve.handlers.predict_codec import decode_predict_request, encode_predict_response, to_array
from inserve.protos import messages

READ, WRITE, COPY = "request bytes to array", "array to response bytes", "the bytes copied"
LIMIT_MS = 3.0


def main() -> None:
    strings = np.array([b"%040d" % number for number in range(10_000)], object)
    request = messages.PredictRequest()
    request.model_spec.name = "m"
    tensor = request.inputs["x"]
    tensor.dtype = 7
    tensor.tensor_shape.dim.add(size=len(strings))
    tensor.string_val.extend(strings.tolist())
    data = request.SerializeToString()
    outputs = [("y", strings)]
    figures = compare(
        {
            READ: lambda: to_array(decode_predict_request(data)[1]["x"]),
            WRITE: lambda: encode_predict_response(outputs, "m", 1, "serving_default", False),
            COPY: lambda: bytearray(data),
        }
    )
    for name, values in figures.items():
        print(f"{name:<28} {microseconds(values)}")
    for name in (READ, WRITE):
        report(f"{name}, ms", float(np.median(figures[name])) * 1e3, LIMIT_MS)


if __name__ == "__main__":
    main()

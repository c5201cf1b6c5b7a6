"""Loads and runs a model whose bytes were changed at random; ends well if it is served or refused.

usage: python hostile_child.py MODEL_FILE SEED COUNT

Each of the COUNT changed files is handled in a fork of its own. Prints how many were served, refused and
ended the fork.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
from pathlib import Path

from inserve.errors import InserveError
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.saved_model.warmup_inputs import generate_inputs
from inserve.tflite import interpreter
from inserve.tflite.load_tflite import load_tflite

SERVED, REFUSED = 0, 10
LIMIT_S = 20


def changed(content: bytes, chance: random.Random) -> bytes:
    data = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 3])):
        place = chance.randrange(len(data) - 4)
        width = chance.choice([1, 4])
        if chance.random() < 0.5:
            data[place] ^= 1 << chance.randrange(8)
        else:
            data[place : place + width] = chance.choice(
                [chance.randbytes(width), b"\xff" * width, b"\0" * width, b"\x7f" * width]
            )
    return bytes(data)


def serve(path: str) -> int:
    try:
        model = load_tflite(path, 1)
        servable = SavedModelServable(model)
        for signature in servable.signatures.values():
            arrays = generate_inputs(signature)
            if arrays is not None:
                servable.signature_run(signature, ()).run(arrays)
    except (InserveError, ValueError, MemoryError):
        return REFUSED
    return SERVED


def main(model: Path, seed: int, count: int) -> None:
    chance = random.Random(seed)
    content = model.read_bytes()
    interpreter.load_litert()
    outcomes = {SERVED: 0, REFUSED: 0, -1: 0}
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.tflite")
        for _ in range(count):
            Path(path).write_bytes(changed(content, chance))
            child = os.fork()
            if not child:
                signal.alarm(LIMIT_S)
                os._exit(serve(path))
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            outcomes[code if code in outcomes else -1] += 1
    print(*outcomes.values())


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))

"""``inserve demo``: serve the shipped model and ask it in every way there is."""

from __future__ import annotations

import logging
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from inserve.cli.predict_call import Arrays, Predict
    from inserve.demo_data.digits import HeldOutDigits

__all__ = ["demo"]

_MODEL_NAME = "digits"
_TIMEOUT_S = 10.0
_DIGITS_PER_LINE = 5
_CALLS_BEFORE_MEASURING = 20
_SAME_PROBABILITY = 1e-5
"""Most by which two ways may differ: TensorFlow may round differently from run to run."""


@dataclass(frozen=True)
class _Way:
    """One way to ask the model."""

    title: str
    predict: Predict


@dataclass(frozen=True)
class _Answer:
    """What one way said, and how long a question of one image took."""

    title: str
    outputs: Arrays
    median_s: float


@click.command()
@click.option(
    "--calls",
    type=click.IntRange(1, 1_000_000),
    default=500,
    show_default=True,
    help="Calls that the median latency of each way is taken from.",
)
def demo(calls: int) -> None:
    """Serve a small reader of handwritten digits and ask it in every way.

    Prints the digits, what the model read, and how long one call takes in the same process, over gRPC
    and over REST. The exit status is 1 if the ways do not give the same answer.
    """
    from inserve.demo_data.digits import load_held_out_digits

    _silence_tensorflow()
    digits = load_held_out_digits()
    with _ways() as ways:
        answers = [_ask(way, digits.images, calls) for way in ways]
    first = answers[0]
    predicted = first.outputs["classes"]
    agreeing = [answer for answer in answers if _is_same_answer(answer.outputs, first.outputs)]
    correct = int((predicted == digits.labels).sum())

    _print_digits(digits, predicted.tolist())
    _print_latencies(answers, calls)
    click.echo(
        f"{len(agreeing)} of {len(answers)} ways agree; "
        f"{correct} of {len(digits.labels)} digits, none seen in training, were read correctly."
    )
    if len(agreeing) != len(answers):
        odd = ", ".join(answer.title for answer in answers if answer not in agreeing)
        raise click.ClickException(f"not the same answer as {first.title}: {odd}")


def _silence_tensorflow() -> None:
    """Keep TensorFlow's remarks about the machine out of the output."""
    logging.getLogger("inserve.tensorflow").setLevel(logging.CRITICAL)


@contextmanager
def _ways() -> Iterator[list[_Way]]:
    """Load and serve the model for the length of a block."""
    import grpc

    from inserve.cli.predict_call import predict_over, predict_over_rest
    from inserve.demo_data.digits import digits_base_path
    from inserve.server.model import load
    from inserve.server.model_server import Server

    base_path = digits_base_path()
    no_proxy = [("grpc.enable_http_proxy", 0)]
    with ExitStack() as stack:
        model = stack.enter_context(load(base_path))
        socket_path = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="inserve-"))) / "grpc"
        server = stack.enter_context(
            Server(
                models={_MODEL_NAME: base_path},
                grpc=["127.0.0.1:0", f"unix:{socket_path}"],
                rest="127.0.0.1:0",
            )
        )
        over_tcp = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}", no_proxy))
        over_unix = stack.enter_context(grpc.insecure_channel(f"unix:{socket_path}", no_proxy))
        over_rest = stack.enter_context(predict_over_rest(server.rest_port or 0, _MODEL_NAME, _TIMEOUT_S))
        yield [
            _Way("inserve.load: model(images=...)", model.predict),
            _Way("server.predict(...)", lambda inputs: server.predict(_MODEL_NAME, inputs)),
            _Way(
                "gRPC stub, no socket: server.channel()",
                predict_over(server.channel(), _MODEL_NAME, _TIMEOUT_S),
            ),
            _Way("gRPC over a Unix socket", predict_over(over_unix, _MODEL_NAME, _TIMEOUT_S)),
            _Way("gRPC over TCP", predict_over(over_tcp, _MODEL_NAME, _TIMEOUT_S)),
            _Way("REST, JSON", over_rest),
        ]


def _ask(way: _Way, images: NDArray[np.float32], calls: int) -> _Answer:
    from statistics import median

    outputs = way.predict({"images": images})
    one_image = {"images": images[:1]}
    for _ in range(_CALLS_BEFORE_MEASURING):
        way.predict(one_image)
    seconds = []
    for _ in range(calls):
        started = perf_counter()
        way.predict(one_image)
        seconds.append(perf_counter() - started)
    return _Answer(way.title, outputs, median(seconds))


def _is_same_answer(one: Arrays, other: Arrays) -> bool:
    import numpy as np

    return (
        one.keys() == other.keys()
        and np.array_equal(one["classes"], other["classes"])
        and np.allclose(one["probabilities"], other["probabilities"], rtol=0, atol=_SAME_PROBABILITY)
    )


def _print_digits(digits: HeldOutDigits, predicted: Sequence[int]) -> None:
    from inserve.cli.digit_drawing import WIDTH, can_encode_blocks, draw_digit, side_by_side

    blocks = can_encode_blocks(sys.stdout.encoding or "ascii")
    cells = []
    for image, label, read in zip(digits.images[..., 0], digits.labels.tolist(), predicted, strict=True):
        caption = f"read {read}" if read == label else f"read {read}, is {label}"
        cells.append([*draw_digit(image, blocks), caption.center(WIDTH)])
    for start in range(0, len(cells), _DIGITS_PER_LINE):
        for line in side_by_side(cells[start : start + _DIGITS_PER_LINE]):
            click.echo(line)
        click.echo()


def _print_latencies(answers: Sequence[_Answer], calls: int) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        "one image, asked by", box=box.SIMPLE_HEAD, title=f"Median of {calls} calls", title_justify="left"
    )
    table.add_column("microseconds", justify="right")
    for answer in answers:
        table.add_row(answer.title, f"{answer.median_s * 1e6:,.0f}")
    Console(highlight=False).print(table)

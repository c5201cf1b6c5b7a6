"""SessionRun on models that the real library runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest

from inserve.errors import (
    DeadlineExceededError,
    FailedPreconditionError,
    InserveError,
    InternalError,
    InvalidArgumentError,
    NotFoundError,
    PermissionDeniedError,
    ResourceExhaustedError,
    UnimplementedError,
)
from inserve.handlers.model_spec import ServableFinder
from inserve.handlers.placement import WouldBlock
from inserve.handlers.session_run import SessionRunHandler
from inserve.lifecycle.servable_handle import Lease, ServableHandle
from inserve.lifecycle.servable_id import ServableId, ServableRequest
from inserve.lifecycle.version_labels import VersionLabels
from inserve.protos import messages
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.tensor_proto import tensor_from_message, tensor_to_message

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
VERSION = 1


class Available:
    """A manager with one version of each model."""

    def __init__(self, servables: dict[str, SavedModelServable]) -> None:
        self.servables = servables

    def lookup_latest(self, name: str) -> ServableHandle[Any] | None:
        return self.lookup(name, VERSION)

    def lookup(self, name: str, version: int) -> ServableHandle[Any] | None:
        if name not in self.servables or version != VERSION:
            return None
        return ServableHandle(Lease(ServableId(name, version), self.servables[name], SimpleQueue()))

    def servable_handle(self, request: ServableRequest) -> ServableHandle[Any]:
        handle = self.lookup(request.name, VERSION if request.version is None else request.version)
        if handle is None:
            raise NotFoundError(f"Servable not found for request: {request}")
        return handle

    def available_servables(self) -> list[ServableId]:
        return [ServableId(name, VERSION) for name in self.servables]

    def available_versions(self, name: str) -> list[int]:
        return [VERSION] if name in self.servables else []


def find_in(servables: dict[str, SavedModelServable]) -> ServableFinder:
    manager = Available(servables)
    finder = ServableFinder(manager, VersionLabels(lambda id: id in manager.available_servables()))
    finder.open()
    return finder


@pytest.fixture(scope="module")
def servables() -> Iterator[dict[str, SavedModelServable]]:
    names = ("half_plus_two", "cnn", "slow", "strings")
    loaded = {name: SavedModelServable(load_saved_model(str(MODELS / name / "1"))) for name in names}
    yield loaded
    for servable in loaded.values():
        servable.close()


@pytest.fixture
def finder(servables: dict[str, SavedModelServable]) -> ServableFinder:
    return find_in(servables)


@pytest.fixture
def handler(finder: ServableFinder) -> SessionRunHandler:
    return SessionRunHandler(finder)


def request(
    model: str = "half_plus_two", feeds: Any = (), fetches: Any = (), **fields: Any
) -> messages.SessionRunRequest:
    return messages.SessionRunRequest(
        model_spec=messages.ModelSpec(name=model, **fields.pop("spec", {})),
        feed=[messages.NamedTensorProto(name=name, tensor=tensor_to_message(value)) for name, value in feeds],
        fetch=fetches,
        **fields,
    )


Ask = Callable[..., messages.SessionRunResponse]


@pytest.fixture
def ask(handler: SessionRunHandler) -> Ask:
    def ask(*args: Any, timeout_s: float | None = None, **fields: Any) -> messages.SessionRunResponse:
        message = request(*args, **fields)
        answer = handler.session_run_message(message.SerializeToString(), timeout_s, True)
        return messages.SessionRunResponse.FromString(answer)

    return ask


def arrays(response: messages.SessionRunResponse) -> list[tuple[str, Any]]:
    return [(one.name, tensor_from_message(one.tensor).tolist()) for one in response.tensor]


@pytest.fixture
def feed(servables: dict[str, SavedModelServable]) -> str:
    return servables["half_plus_two"].signatures["serving_default"].inputs["x"].tensor_name


@pytest.fixture
def fetch(servables: dict[str, SavedModelServable]) -> str:
    return servables["half_plus_two"].signatures["serving_default"].outputs["y"].tensor_name


X = np.array([2.0, 5.0], np.float32)
Y = [3.0, 4.5]


def test_fetches_come_in_the_order_asked_for_under_the_names_asked_by(
    ask: Ask, feed: str, fetch: str
) -> None:
    response = ask("half_plus_two", [(feed, X)], [fetch, fetch.partition(":")[0], fetch])
    assert arrays(response) == [(fetch, Y), (fetch.partition(":")[0], Y), (fetch, Y)]


def test_the_answer_names_the_version_that_ran_and_has_no_metadata(ask: Ask, feed: str, fetch: str) -> None:
    response = ask("half_plus_two", [(feed, X)], [fetch])
    assert response.model_spec == messages.ModelSpec(
        name="half_plus_two", version=messages.Int64Value(value=VERSION)
    )
    assert not response.HasField("metadata")


def test_a_feed_without_index_is_output_0(ask: Ask, feed: str, fetch: str) -> None:
    assert arrays(ask("half_plus_two", [(feed.partition(":")[0], X)], [fetch])) == [(fetch, Y)]


def test_aliases_are_those_of_the_signature(ask: Ask) -> None:
    response = ask("half_plus_two", [("x", X)], ["y"], tensor_name_is_alias=True)
    assert arrays(response) == [("y", Y)]


def test_an_alias_the_signature_lacks_is_refused(ask: Ask) -> None:
    with pytest.raises(InvalidArgumentError, match=r"z is no input of signature serving_default.*\{x\}"):
        ask("half_plus_two", [("z", X)], ["y"], tensor_name_is_alias=True)
    with pytest.raises(InvalidArgumentError, match="z is no output of signature serving_default"):
        ask("half_plus_two", [("x", X)], ["z"], tensor_name_is_alias=True)
    with pytest.raises(FailedPreconditionError, match='Serving signature key "other" not found'):
        ask("half_plus_two", tensor_name_is_alias=True, spec={"signature_name": "other"})


def test_strings_are_fed_and_fetched(ask: Ask) -> None:
    value = np.array([[b"a"], [b"\xff\x00"]], object)
    response = ask("strings", [("s:0", value)], ["Identity_1:0", "StringLength_1:0"])
    assert arrays(response) == [("Identity_1:0", [[b"a"], [b"\xff\x00"]]), ("StringLength_1:0", [[1], [2]])]


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        (None, InvalidArgumentError, "Missing ModelSpec"),
        (messages.ModelSpec(), InvalidArgumentError, "ModelSpec has no name specified."),
        (messages.ModelSpec(name="none"), NotFoundError, "Servable not found for request"),
        (
            messages.ModelSpec(name="half_plus_two", version=messages.Int64Value(value=7)),
            NotFoundError,
            "Servable not found for request",
        ),
        (
            messages.ModelSpec(name="half_plus_two", version_label="stable"),
            InserveError,
            "stable",
        ),
    ],
)
def test_the_model_is_found_as_for_predict(
    handler: SessionRunHandler, spec: messages.ModelSpec | None, error: type[InserveError], text: str
) -> None:
    message = messages.SessionRunRequest(model_spec=spec)
    with pytest.raises(error, match=text):
        handler.session_run_message(message.SerializeToString(), None, True)


def test_garbage_is_an_internal_error_without_a_text(handler: SessionRunHandler) -> None:
    with pytest.raises(InternalError) as raised:
        handler.session_run_message(b"\xff\xff", None, True)
    assert raised.value.message == ""


def test_targets_are_not_supported(ask: Ask, feed: str, fetch: str) -> None:
    with pytest.raises(UnimplementedError, match="cannot run targets, got init: expected tensors to fetch"):
        ask("half_plus_two", [(feed, X)], [fetch], target=["init"])


@pytest.mark.parametrize("name", ["nothing:0", "nothing", "", ":", ":0", "^x", "x:-1", "x:99", "a\0b:0"])
def test_a_tensor_the_graph_lacks_is_refused(ask: Ask, feed: str, fetch: str, name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="was not found in the Graph"):
        ask("half_plus_two", [(feed, X)], [name])
    with pytest.raises(InvalidArgumentError, match="was not found in the Graph"):
        ask("half_plus_two", [(name, X)], [fetch])


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.bool_, object])
def test_a_feed_of_another_type_than_in_the_graph_is_refused(
    ask: Ask, feed: str, fetch: str, dtype: Any
) -> None:
    value = np.array([b"2"], object) if dtype is object else np.ones(1, dtype)
    with pytest.raises(InvalidArgumentError, match="is float in the graph"):
        ask("half_plus_two", [(feed, value)], [fetch])


def test_a_feed_that_is_no_tensor_is_refused(handler: SessionRunHandler, feed: str, fetch: str) -> None:
    message = request("half_plus_two", [], [fetch])
    message.feed.add(name=feed)
    with pytest.raises(InvalidArgumentError, match=f"tensor parsing error: {feed}"):
        handler.session_run_message(message.SerializeToString(), None, True)


def test_one_tensor_cannot_be_fed_twice(ask: Ask, feed: str, fetch: str) -> None:
    with pytest.raises(InvalidArgumentError, match=f'Endpoint "{feed}" fed more than once'):
        ask("half_plus_two", [(feed, X), (feed.partition(":")[0], X)], [fetch])


def test_what_tensorflow_refuses_is_passed_on(ask: Ask, feed: str, fetch: str) -> None:
    with pytest.raises(InvalidArgumentError, match="Must specify at least one target to fetch or execute"):
        ask("half_plus_two", [(feed, X)], [])
    with pytest.raises(InvalidArgumentError, match=f"{feed} is both fed and fetched"):
        ask("half_plus_two", [(feed, X)], [feed])
    with pytest.raises(InvalidArgumentError, match="You must feed a value for placeholder tensor"):
        ask("half_plus_two", [], [fetch])


def test_a_feed_without_elements_may_not_have_vast_dimensions(
    handler: SessionRunHandler, feed: str, fetch: str
) -> None:
    message = request("half_plus_two", [(feed, np.empty(0, np.float32))], [fetch])
    message.feed[0].tensor.tensor_shape.dim.add(size=2**40)
    with pytest.raises(InvalidArgumentError, match="has no elements and may have at most"):
        handler.session_run_message(message.SerializeToString(), None, True)


IMAGES = np.zeros((2, 28, 28, 1), np.float32)


def test_a_graph_that_could_end_the_process_takes_inputs_in_their_shapes(ask: Ask) -> None:
    ((name, values),) = arrays(ask("cnn", [("images:0", IMAGES)], ["probs:0"]))
    assert name == "probs:0"
    assert np.sum(values, axis=1) == pytest.approx([1.0, 1.0], rel=1e-5)


def test_a_graph_that_could_end_the_process_takes_no_other_shape(ask: Ask) -> None:
    for shape, came in (((1,), "[1]"), ((1, 28, 28), "[1,28,28]"), ((1, 28, 27, 1), "[1,28,27,1]")):
        with pytest.raises(FailedPreconditionError) as raised:
            ask("cnn", [("images:0", np.zeros(shape, np.float32))], ["probs:0"])
        assert "operations that end the process" in raised.value.message
        assert raised.value.message.endswith(f"expected [?,28,28,1], got {came}")


def test_a_graph_that_could_end_the_process_takes_no_tensor_inside_it(ask: Ask) -> None:
    with pytest.raises(FailedPreconditionError, match=r"Tensor probs:0 cannot be fed.*it is none of them"):
        ask("cnn", [("probs", np.zeros((2, 10), np.float32))], ["ArgMax:0"])


@pytest.mark.parametrize("fetch", ["StatefulPartitionedCall_1:0", "StatefulPartitionedCall_2:0"])
def test_what_saves_or_restores_variables_cannot_be_fetched(ask: Ask, tmp_path: Path, fetch: str) -> None:
    path = np.array(str(tmp_path / "written").encode(), object)
    with pytest.raises(PermissionDeniedError, match=rf"Tensor {fetch} .* depends on (Save|Merge|Restore)"):
        ask("half_plus_two", [("saver_filename:0", path)], [fetch])
    assert list(tmp_path.iterdir()) == []


def test_the_sooner_of_option_and_deadline_ends_a_run(ask: Ask) -> None:
    feeds = [("n:0", np.array(2**30, np.int32)), ("x:0", np.ones(1, np.float32))]
    soon, late = messages.RunOptions(timeout_in_ms=20), messages.RunOptions(timeout_in_ms=600_000)
    for timeout_s, options in ((None, soon), (600.0, soon), (0.02, late)):
        with pytest.raises(DeadlineExceededError):
            ask("slow", feeds, ["yn:0"], timeout_s=timeout_s, options=options)


def test_short_runs_before_do_not_keep_a_deadline_from_ending_a_long_one(ask: Ask) -> None:
    def times(n: int) -> list[tuple[str, Any]]:
        return [("n:0", np.array(n, np.int32)), ("x:0", np.ones(1, np.float32))]

    for _ in range(5):
        ask("slow", times(1), ["yn:0"])
    with pytest.raises(DeadlineExceededError):
        ask("slow", times(2**30), ["yn:0"], timeout_s=0.1)


def test_no_run_holds_up_the_thread_that_received_it(
    handler: SessionRunHandler, feed: str, fetch: str
) -> None:
    message = request("half_plus_two", [(feed, X)], [fetch]).SerializeToString()
    for _ in range(5):
        handler.session_run_message(message, None, True)
    with pytest.raises(WouldBlock):
        handler.session_run_message(message, None, False)


def test_choices_of_tensors_are_bounded_in_any_order(finder: ServableFinder, feed: str, fetch: str) -> None:
    handler = SessionRunHandler(finder, max_choices=1)
    for fetches in ([fetch], [fetch, fetch.partition(":")[0]]):
        message = request("half_plus_two", [(feed, X)], fetches)
        handler.session_run_message(message.SerializeToString(), None, True)
    other = request("half_plus_two", [], [feed])
    with pytest.raises(ResourceExhaustedError, match="1 different choices"):
        handler.session_run_message(other.SerializeToString(), None, True)
    handler.session_run_message(message.SerializeToString(), None, True)


def test_values_go_into_tensor_content_where_asked(finder: ServableFinder, feed: str, fetch: str) -> None:
    message = request("half_plus_two", [(feed, X)], [fetch]).SerializeToString()
    for as_content in (False, True):
        answer = SessionRunHandler(finder, as_content).session_run_message(message, None, True)
        (tensor,) = messages.SessionRunResponse.FromString(answer).tensor
        assert bool(tensor.tensor.tensor_content) is as_content
        assert bool(tensor.tensor.float_val) is not as_content

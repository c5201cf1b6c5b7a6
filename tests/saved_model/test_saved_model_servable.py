from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from inserve.errors import InvalidArgumentError
from inserve.saved_model.saved_model_servable import SavedModelServable
from inserve.tensorflow_c.load_saved_model import load_saved_model
from inserve.tensors.dtypes import DataType

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"


@pytest.fixture
def half_plus_two() -> Iterator[SavedModelServable]:
    servable = SavedModelServable(load_saved_model(str(MODELS / "half_plus_two" / "1")))
    yield servable
    servable.close()


def test_tensors_are_fed_and_fetched_by_their_names_in_the_graph(half_plus_two: SavedModelServable) -> None:
    signature = half_plus_two.signatures["serving_default"]
    feed, fetch = signature.inputs["x"].tensor_name, signature.outputs["y"].tensor_name
    run = half_plus_two.run_of_tensors(((feed, DataType.DT_FLOAT),), (fetch,))
    assert run.output_aliases == (fetch,)
    (y,) = run.run([np.array([2.0, 4.0], np.float32)])
    assert y.tolist() == [3.0, 4.0]


def test_the_run_of_the_same_tensors_is_prepared_once(half_plus_two: SavedModelServable) -> None:
    signature = half_plus_two.signatures["serving_default"]
    feeds = ((signature.inputs["x"].tensor_name, DataType.DT_FLOAT),)
    fetches = (signature.outputs["y"].tensor_name,)
    assert half_plus_two.run_of_tensors(feeds, fetches) is half_plus_two.run_of_tensors(feeds, fetches)


def test_a_feed_of_another_type_than_in_the_graph_is_refused(half_plus_two: SavedModelServable) -> None:
    signature = half_plus_two.signatures["serving_default"]
    feed, fetch = signature.inputs["x"].tensor_name, signature.outputs["y"].tensor_name
    with pytest.raises(InvalidArgumentError, match="expected DT_STRING for the feed"):
        half_plus_two.tensor_run((feed,), (fetch,))


def test_a_tensor_the_graph_lacks_is_refused(half_plus_two: SavedModelServable) -> None:
    with pytest.raises(InvalidArgumentError, match="Tensor nothing:0"):
        half_plus_two.run_of_tensors((), ("nothing:0",))

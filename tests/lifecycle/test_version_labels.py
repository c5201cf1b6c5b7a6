from __future__ import annotations

import pytest

from inserve.errors import FailedPreconditionError, InvalidArgumentError, UnavailableError
from inserve.lifecycle.servable_id import ServableId
from inserve.lifecycle.version_labels import VersionLabels

AVAILABLE = {ServableId("m", 1), ServableId("m", 2), ServableId("n", 1)}


def labels(**options: bool) -> VersionLabels:
    return VersionLabels(AVAILABLE.__contains__, **options)


def test_a_label_stands_for_a_version_of_its_model() -> None:
    some = labels()
    some.assign({"m": {"stable": 1, "canary": 2}, "n": {"stable": 1}})
    assert some.version("m", "canary") == 2
    assert some.of_model("m") == {"stable": 1, "canary": 2}
    assert some.of_model("x") == {}


@pytest.mark.parametrize(("model", "label"), [("m", "nope"), ("m", ""), ("x", "stable")])
def test_an_unknown_label_is_an_error_that_names_it(model: str, label: str) -> None:
    some = labels()
    some.assign({"m": {"stable": 1}})
    with pytest.raises(InvalidArgumentError) as caught:
        some.version(model, label)
    assert str(caught.value) == f"Unrecognized servable version label: {label}"


def test_before_the_first_config_labels_are_unavailable() -> None:
    with pytest.raises(UnavailableError) as caught:
        labels().version("m", "stable")
    assert str(caught.value) == "Model labels does not init yet.stable"


def test_a_config_without_labels_counts_as_the_first() -> None:
    some = labels()
    some.assign({})
    with pytest.raises(InvalidArgumentError):
        some.version("m", "stable")


def test_a_label_for_a_version_that_is_not_available_is_refused() -> None:
    with pytest.raises(FailedPreconditionError) as caught:
        labels().assign({"m": {"stable": 3}})
    assert str(caught.value) == (
        "Request to assign label to version 3 of model m, which is not currently available for inference"
    )


def test_a_refused_assignment_changes_no_label() -> None:
    some = labels()
    some.assign({"m": {"stable": 1}})
    with pytest.raises(FailedPreconditionError):
        some.assign({"m": {"stable": 2}, "n": {"stable": 7}})
    assert some.of_model("m") == {"stable": 1}


def test_labels_and_models_left_out_are_gone() -> None:
    some = labels()
    some.assign({"m": {"stable": 1, "canary": 2}, "n": {"stable": 1}})
    some.assign({"m": {"stable": 1}})
    assert some.of_model("m") == {"stable": 1}
    assert some.of_model("n") == {}


@pytest.mark.parametrize("version", [3, 4])
def test_a_new_label_for_an_unavailable_version_is_accepted_where_allowed(version: int) -> None:
    some = labels(allow_unavailable=True)
    some.assign({"m": {"stable": version}})
    some.assign({"m": {"stable": version}})
    assert some.version("m", "stable") == version


def test_moving_a_label_to_an_unavailable_version_is_refused_even_where_allowed() -> None:
    some = labels(allow_unavailable=True)
    some.assign({"m": {"stable": 3}})
    with pytest.raises(FailedPreconditionError, match="version 4 of model m"):
        some.assign({"m": {"stable": 4}})


def test_labels_that_are_not_allowed_are_refused_in_configs_and_requests() -> None:
    some = labels(allowed=False)
    with pytest.raises(FailedPreconditionError) as refused:
        some.assign({"m": {"stable": 1}})
    assert str(refused.value) == "Model version labels are not currently allowed by the server."
    some.assign({"m": {}})
    with pytest.raises(InvalidArgumentError) as asked:
        some.version("m", "stable")
    assert str(asked.value) == (
        "ModelSpec has 'version_label' set, but it is not currently allowed by the server."
    )


def test_labels_of_one_model_are_replaced_without_looking_at_the_others() -> None:
    some = VersionLabels(AVAILABLE.__contains__)
    some.assign({"m": {"stable": 1}})
    later = VersionLabels((AVAILABLE - {ServableId("m", 1)}).__contains__)
    later.restore(some.of_all())
    later.assign_model("n", {"stable": 1})
    assert later.of_all() == {"m": {"stable": 1}, "n": {"stable": 1}}
    later.assign_model("m", {})
    assert later.of_all() == {"n": {"stable": 1}}


def test_a_refused_label_of_one_model_changes_nothing() -> None:
    some = labels()
    some.assign({"n": {"stable": 1}})
    with pytest.raises(FailedPreconditionError, match="version 9 of model m"):
        some.assign_model("m", {"stable": 9})
    assert some.of_all() == {"n": {"stable": 1}}


def test_labels_are_restored_unchecked() -> None:
    some = labels()
    assert some.of_all() is None
    some.assign({"m": {"stable": 1}})
    some.restore(None)
    with pytest.raises(UnavailableError):
        some.version("m", "stable")

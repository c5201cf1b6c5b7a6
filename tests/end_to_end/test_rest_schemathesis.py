"""The REST API keeps to what its own OpenAPI documents say, whatever the requests (schemathesis)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks

import inserve

MODELS = Path(__file__).resolve().parents[1] / "golden" / "models"
OPERATIONS = [
    ("half_plus_two", "predict"),
    ("multi", "predict"),
    ("strings", "predict"),
    ("types", "predict"),
    ("tf1_examples", "predict"),
    ("tf1_examples", "classify"),
    ("tf1_examples", "regress"),
]
MODES: tuple[Any, ...] = (GenerationMode.POSITIVE, GenerationMode.NEGATIVE)
PAIRS = [(*pair, mode) for pair in OPERATIONS for mode in MODES] + [
    ("half_plus_two", operation, GenerationMode.POSITIVE) for operation in ("status", "metadata")
]
"""What takes nothing cannot be asked with anything wrong."""

LIMIT_S = 60.0
MANY = 1_000
"""Examples of one operation and kind of data in the long run."""

load_all_checks()
FORM: Any = CHECKS.get_by_names(
    ["status_code_conformance", "content_type_conformance", "response_headers_conformance"]
)
VALUES: Any = CHECKS.get_by_names(["response_schema_conformance"])
DOCUMENTED_FAILURES = {501, 503, 504}

schemathesis.openapi.media_type("application/x-npy", st.binary(max_size=200))
schemathesis.openapi.media_type("application/x-protobuf", st.binary(max_size=200))


@pytest.fixture(scope="module")
def base_url() -> Iterator[str]:
    models = {name: MODELS / name for name in dict(OPERATIONS)}
    with inserve.Server(models=models, rest="127.0.0.1:0", tune=False) as server:
        yield f"http://127.0.0.1:{server.rest_port}"


@pytest.fixture(scope="module")
def schemas(base_url: str) -> dict[str, Any]:
    """The document of each model, as it is served."""
    with httpx.Client(base_url=base_url, timeout=LIMIT_S) as client:
        return {
            name: schemathesis.openapi.from_dict(client.get(f"/v1/models/{name}/openapi.json").json())
            for name in dict(OPERATIONS)
        }


def is_plain_json(body: bytes) -> bool:
    """Return whether *body* is JSON without the words for numbers that JSON does not have."""
    return not any(word in body for word in (b"NaN", b"Infinity")) and body[:1] in (b"{", b"[")


def assert_are_classes(results: Any) -> None:
    """Check a list of lists of pairs: schemathesis refuses ``prefixItems`` in the schema of an answer."""
    for pairs in results:
        for label, score in pairs:
            assert isinstance(label, str)
            assert isinstance(score, float | int)


@pytest.mark.parametrize("times", [16, pytest.param(MANY, marks=pytest.mark.nightly)])
@pytest.mark.parametrize(
    ("model", "operation", "mode"), PAIRS, ids=[f"{name}-{what}-{mode.value}" for name, what, mode in PAIRS]
)
def test_answers_are_as_described(
    base_url: str, schemas: dict[str, Any], model: str, operation: str, mode: GenerationMode, times: int
) -> None:
    described = schemas[model].find_operation_by_id(operation)
    session = requests.Session()

    def check(case: Case[Any]) -> None:
        response = case.call(base_url=base_url, session=session, timeout=LIMIT_S)
        assert response.status_code < 500 or response.status_code in DOCUMENTED_FAILURES, response.content
        case.validate_response(response, checks=FORM)
        if not is_plain_json(response.content):
            return
        if operation == "classify" and response.status_code == 200:
            assert_are_classes(response.json()["results"])
        else:
            case.validate_response(response, checks=VALUES)

    cases: SearchStrategy[Case[Any]] = described.as_strategy(mode)
    run: Callable[[], None] = given(cases)(check)
    with session:
        settings(
            max_examples=times,
            database=None,
            deadline=None,
            derandomize=times < MANY,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )(run)()

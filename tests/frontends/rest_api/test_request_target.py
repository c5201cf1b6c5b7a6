from __future__ import annotations

import pytest

from inserve.frontends.rest_api.request_target import (
    InferenceTarget,
    ModelTarget,
    Target,
    VersionTooLargeError,
    inference_target,
    model_target,
    openapi_target,
    parse_target,
)


@pytest.mark.parametrize(
    ("target", "path", "full"),
    [
        (b"/v1/models/m", "/v1/models/m", "/v1/models/m"),
        (b"/v1/models/m?a=b", "/v1/models/m", "/v1/models/m?a=b"),
        (b"/v1/models/m#f", "/v1/models/m", "/v1/models/m#f"),
        (b"/a?b#c", "/a", "/a?b#c"),
        (b"http://host/v1/models/m", "/v1/models/m", "/v1/models/m"),
        (b"http://u:p@host:80/v1/models/m?q", "/v1/models/m", "/v1/models/m?q"),
        (b"http://[::1]:8501/v1/x", "/v1/x", "/v1/x"),
        (b"//host/v1/x", "/v1/x", "/v1/x"),
        (b"*", "*", "*"),
        (b"?", "", "?"),
        (b"http://host", "", ""),
    ],
)
def test_scheme_and_authority_do_not_count_and_the_query_does(target: bytes, path: str, full: str) -> None:
    assert parse_target(target) == Target(path, full)


@pytest.mark.parametrize(
    "target",
    [
        b"/%zz",
        b"/%4",
        b"/a b",
        b"/a\x01",
        b"/\xc3\xa9",
        b'/"',
        b"/<",
        b"/{x}",
        b"/a|b",
        b"/a^",
        b"1a:b",
        b"/#a#b",
    ],
)
def test_what_no_uri_may_contain_is_not_well_formed(target: bytes) -> None:
    assert parse_target(target) is None


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        ("/v1/models/m:predict", InferenceTarget(ModelTarget("m", None, None), "predict")),
        ("/V1/Models/m:predict", InferenceTarget(ModelTarget("m", None, None), "predict")),
        ("/v1/models/m:PREDICT", InferenceTarget(ModelTarget("m", None, None), "PREDICT")),
        ("/v1/models/m/versions/12:classify", InferenceTarget(ModelTarget("m", 12, None), "classify")),
        ("/v1/models/m/LABELS/a%2Fb:regress", InferenceTarget(ModelTarget("m", None, "a/b"), "regress")),
        ("/v1/models/a+b%3A:predict", InferenceTarget(ModelTarget("a+b:", None, None), "predict")),
        ("/v1/models/%FF:predict", InferenceTarget(ModelTarget("\udcff", None, None), "predict")),
        ("/v1/models/m:predict?a=b", None),
        ("/v1/models/m:predict/", None),
        ("/v1/models/m:foo", None),
        ("/v1/models/m", None),
        ("/v1/models/:predict", None),
        ("/v1/models/m/versions/x:predict", None),
        ("/v1/models/m/versions/1/labels/a:predict", None),
    ],
)
def test_a_post_names_a_model_and_a_verb(full: str, expected: InferenceTarget | None) -> None:
    assert inference_target(full) == expected


@pytest.mark.parametrize(
    ("full", "expected"),
    [
        ("/v1/models", ModelTarget("", None, None)),
        ("/v1/models/m", ModelTarget("m", None, None)),
        ("/v1/models/m?x=1", ModelTarget("m?x=1", None, None)),
        ("/v1/models/metadata", ModelTarget("metadata", None, None)),
        ("/v1/models/metadata/metadata", ModelTarget("metadata", None, None, wants_metadata=True)),
        ("/v1/models/versions/1", ModelTarget("", 1, None)),
        ("/v1/models/m/labels/a/metadata", ModelTarget("m", None, "a", wants_metadata=True)),
        ("/v1/models/m/METADATA", ModelTarget("m", None, None)),
        ("/v1/models/", None),
        ("/v1/models/m/", None),
        ("/v1/models/m:predict", None),
        ("/v1/models/m/versions/-1", None),
    ],
)
def test_a_get_names_a_model_or_none(full: str, expected: ModelTarget | None) -> None:
    assert model_target(full) == expected


def test_a_description_is_asked_for_by_its_file_name() -> None:
    assert openapi_target("/v1/models/m/versions/3/openapi.json") == ModelTarget("m", 3, None)
    assert openapi_target("/v1/models/m/openapi_json") is None


@pytest.mark.parametrize("digits", ["9223372036854775808", "1" * 10_000])
def test_a_version_beyond_64_bits_is_told_apart(digits: str) -> None:
    with pytest.raises(VersionTooLargeError):
        model_target(f"/v1/models/m/versions/{digits}")


def test_leading_zeros_of_a_version_mean_nothing() -> None:
    found = model_target("/v1/models/m/versions/" + "0" * 100 + "9223372036854775807")
    assert found == ModelTarget("m", 2**63 - 1, None)


@pytest.mark.parametrize(
    ("full", "name"),
    [
        ("/p", ""),
        ("/p?signature_name=a%20b", "a b"),
        ("/p?signature_name=", ""),
        ("/p?other=a", None),
        ("/p?signature_name=a&b=c", None),
        ("/p?signature_name=a#f", None),
        ("/p?signature_name", None),
    ],
)
def test_only_one_query_names_a_signature(full: str, name: str | None) -> None:
    assert Target("/p", full).signature_name() == name

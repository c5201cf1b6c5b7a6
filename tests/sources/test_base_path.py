from pathlib import Path

import pytest

from inserve.sources.base_path import absolute_base_path, is_remote, is_uri, redacted


def test_a_relative_path_is_relative_to_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/x")
    assert absolute_base_path(Path("models") / "m") == str(tmp_path / "models" / "m")
    assert absolute_base_path("~/m") == "/home/x/m"


@pytest.mark.parametrize("url", ["file:///srv/a%20b", "FILE:///srv/a%20b", "file://localhost/srv/a%20b/"])
def test_a_file_url_is_local(url: str) -> None:
    assert not is_remote(url)
    assert absolute_base_path(url) == "/srv/a b"


def test_another_url_is_remote_and_kept() -> None:
    assert is_remote("gs://bucket/m/")
    assert absolute_base_path("gs://bucket/m/") == "gs://bucket/m/"
    assert not is_uri("/srv/m")


@pytest.mark.parametrize("path", ["", "file://host/m", "file://"])
def test_a_path_that_means_nothing_here_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="base path"):
        absolute_base_path(path)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://key:secret@host/m", "s3://host/m"),
        ("https://h/m?X-Amz-Signature=secret&a=b", "https://h/m?…"),
        ("GET 'https://u:secret@h/m?sig=secret' failed", "GET 'https://h/m?…' failed"),
        ("gs://bucket/m", "gs://bucket/m"),
    ],
)
def test_what_a_url_may_give_away_is_not_shown(text: str, shown: str) -> None:
    assert redacted(text) == shown

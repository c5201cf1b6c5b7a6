from __future__ import annotations

import pytest

from inserve.testing import DeferredRunner


def test_a_task_runs_when_it_is_told_to() -> None:
    runner, ran = DeferredRunner(), list[str]()
    runner.start("a", lambda: ran.append("a"))
    runner.start("b", lambda: ran.append("b"))
    assert ran == []
    runner.run("b")
    assert ran == ["b"]
    assert runner.names == ["a"]


def test_of_two_tasks_with_one_name_the_older_runs_first() -> None:
    runner, ran = DeferredRunner(), list[int]()
    runner.start("a", lambda: ran.append(1))
    runner.start("a", lambda: ran.append(2))
    runner.run("a")
    assert ran == [1]


def test_an_unknown_task_is_an_error_that_names_the_known() -> None:
    runner = DeferredRunner()
    runner.start("a", lambda: None)
    with pytest.raises(LookupError, match=r"expected one of \['a'\], got b"):
        runner.run("b")

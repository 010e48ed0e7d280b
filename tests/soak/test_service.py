"""The soak of a service that is killed, in short."""

from __future__ import annotations

from tests.soak import service


def test_a_service_that_is_killed_answers_as_one_that_nobody_disturbs() -> None:
    figures = service.main(["--quick"])
    assert (figures["different"], figures["lost"], figures["exit code"]) == (0, 0, 0)
    assert figures["sent again"] > 0

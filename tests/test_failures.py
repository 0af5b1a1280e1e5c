"""What the others are told of each failure: the events, with causes, and nothing else. When is for the bench."""

from __future__ import annotations

import pytest

from bench.failures import FAILURES, OPTIONS, Failure, run
from bench.hosts import why_not

WHY_NOT = why_not()


@pytest.mark.timeout(180)
@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: failure.name.replace(" ", "-"))
def test_the_others_are_told_of(failure: Failure) -> None:
    if failure.has_hosts and WHY_NOT:
        pytest.skip(WHY_NOT)
    lasts = any("gone UNREACHABLE" in step.told for step in failure.steps)
    run(failure, (*OPTIONS, "--ping-interval", "0.5", *(("--suspect-timeout", "2") if lasts else ())))

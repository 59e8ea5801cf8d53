"""Processes that start quickly, for all tests of bots."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.bots.warm import Warm


@pytest.fixture(scope="session")
def warm() -> Iterator[Warm]:
    with Warm() as warm:
        yield warm

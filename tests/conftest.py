"""Shared by all tests: where the research material stands, if it does."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs ../shared where that is absent."""
    if SHARED.is_dir():
        return
    for item in items:
        if item.get_closest_marker("shared_data"):
            item.add_marker(pytest.mark.skip(reason="needs the research frames in ../shared"))


@pytest.fixture
def shared() -> Path:
    """The folder of real detectors and frames."""
    return SHARED

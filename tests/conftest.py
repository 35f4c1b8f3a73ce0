"""Shared fixtures."""

import os

import numpy as np
import pytest

# Long fault, fuzz and soak tests run in full with ATTNBRIDGE_SLOW=1, in reduced counts otherwise.
SLOW = os.environ.get("ATTNBRIDGE_SLOW") == "1"


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def rounds():
    """Return a function that picks a count: (reduced, full)."""
    return lambda reduced, full: full if SLOW else reduced

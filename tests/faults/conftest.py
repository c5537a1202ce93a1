"""Fixtures of the tests that start real processes."""

from tests.faults.processes import cache, launch

__all__ = ["cache", "launch"]

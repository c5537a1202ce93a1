"""Fixtures of the tests that start real processes, and of those that train in this one."""

from tests.experiments.conftest import compiled_once
from tests.faults.processes import cache, launch

__all__ = ["cache", "compiled_once", "launch"]

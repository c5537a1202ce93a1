"""Tests run on the CPU unless JAX_PLATFORMS is set, as two devices, and leave no programs behind.

Compiling is what takes their time, so programs are not optimised, but for those of tests that are
marked `optimized`: comparisons with other libraries, whole trainings, and one cell (see cases.py).
And jaxlib 0.10 leaves out its fusion emitters, which double that time, unless slow tests are asked
for (`-m slow`) or XLA_FLAGS is set, if only to nothing. The newest JAX always has them, and
`.ci/run` tests on both.
"""

import atexit
import gc
import os
import tempfile
from collections.abc import Iterator
from importlib.metadata import version

import pytest

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Tests share their compiled programs, by a cache that lives as long as they do.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _cache = tempfile.TemporaryDirectory(prefix="recurrent-tests-")
    atexit.register(_cache.cleanup)
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "true"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def pytest_configure(config: pytest.Config) -> None:
    if version("jaxlib").startswith("0.10.") and config.option.markexpr != "slow":
        os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false")


def pytest_collection_finish() -> None:
    """Spares the garbage collector what stays to the end."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True, scope="module")
def compiled_programs() -> Iterator[None]:
    """Gives back those of a module: each has some mappings of memory, and 65,530 is the limit."""
    import jax

    yield
    jax.clear_caches()


@pytest.fixture(autouse=True)
def optimization(request: pytest.FixtureRequest) -> Iterator[None]:
    import jax

    quick = request.node.get_closest_marker("optimized") is None
    jax.config.update("jax_disable_most_optimizations", quick)
    yield
    jax.config.update("jax_disable_most_optimizations", False)

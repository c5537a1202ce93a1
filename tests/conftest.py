"""Tests run on the CPU unless JAX_PLATFORMS is set, and leave no compiled programs behind."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["JAX_ENABLE_COMPILATION_CACHE"] = "false"

"""Measure how much one call raises this process's memory, by the kernel's high-water mark."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT = 32 * 2**20
_PAGE = 4096


def configure_allocator() -> None:
    """Set glibc's allocator to the thresholds that it adapts to in any long run.

    It then keeps freed blocks of up to 32 MiB and requests larger ones from the kernel. With fixed
    thresholds the order of the cases makes no difference, and `growth` can restore this state. The
    settings are the same for all libraries. With another C library this does nothing.
    """
    _set_thresholds(_LARGEST_KEPT, 2 * _LARGEST_KEPT)


def growth(run: Callable[[], Any]) -> int | None:
    """Measure by how many bytes the peak resident set in a call exceeds its size before the call.

    During the measurement the allocator returns every freed page to the kernel, because memory
    kept from an earlier call would hide part of the growth. Some threads may keep memory anyway, so
    the largest of three calls is taken. Memory that the program holds between calls (its weights
    and inputs) or needs only once is not counted.

    Returns:
      The growth in bytes; None if the kernel does not report it (anywhere but on Linux), or if JAX
      runs on another device, whose memory this is not.
    """
    import jax

    if jax.default_backend() != "cpu":
        return None
    gc.collect()
    try:
        _set_thresholds(_LARGEST_KEPT, 0)
        for _ in range(2):
            run()  # makes each allocating thread return the free end of its heap
        _return_free_memory()
        _set_thresholds(_PAGE, 0)
        return max(_raised(run) for _ in range(3))
    except (OSError, KeyError):
        return None
    finally:
        configure_allocator()


def _raised(run: Callable[[], Any]) -> int:
    (_PROCESS / "clear_refs").write_text("5")  # resets the high-water mark to the current size
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _return_free_memory() -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _set_thresholds(mapped: int, kept: int) -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, mapped)
        mallopt(_TRIM_THRESHOLD, kept)


def _resident(field: str) -> int:
    lines = (_PROCESS / "status").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[field].split()[0]) * 1024

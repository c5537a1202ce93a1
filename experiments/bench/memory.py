"""How far one call raises the memory of this process, by the kernel's own high-water mark."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

_PROCESS = Path("/proc/self")
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_LARGEST_KEPT = 32 * 2**20
_PAGE = 4096


def settle_allocator() -> None:
    """Puts glibc's allocator where its own adjustment ends in any long run.

    It then keeps what is freed, up to blocks of 32 MiB, and asks the kernel for what is larger. So
    the order of cases makes no difference, and `growth` can go back to this state. It is the
    same for all libraries. With another C library nothing is done.
    """
    _set_thresholds(_LARGEST_KEPT, 2 * _LARGEST_KEPT)


def growth(run: Callable[[], Any]) -> int | None:
    """Bytes by which the resident set's peak during a call exceeds its size before it.

    Meanwhile the allocator hands every page back when it is freed, since what it kept from an
    earlier call would hide some of the growth; as some threads may keep some all the same, the
    largest of three calls is taken. What the program holds between calls, its weights and
    inputs, is not counted, nor what it needs once.

    Returns:
      The bytes; None where the kernel does not tell (elsewhere than on Linux).
    """
    gc.collect()
    try:
        _set_thresholds(_LARGEST_KEPT, 0)
        for _ in range(2):
            run()  # so that the threads that allocate hand back what is at the end of their heaps
        _hand_back()
        _set_thresholds(_PAGE, 0)
        return max(_raised(run) for _ in range(3))
    except (OSError, KeyError):
        return None
    finally:
        settle_allocator()


def _raised(run: Callable[[], Any]) -> int:
    (_PROCESS / "clear_refs").write_text("5")  # the mark falls to the present size
    before = _resident("VmRSS")
    run()
    return max(0, _resident("VmHWM") - before)


def _hand_back() -> None:
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

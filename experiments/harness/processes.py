"""Train as one in several processes: start them, let them find each other and keep in step.

The first process alone writes files and reports progress; checkpoints are written by all.
"""

import contextlib
import ctypes
import dataclasses
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.watchdog import watched_join

AUTO = "auto"
LOCALHOST = "127.0.0.1"
LOST_PROCESS = ("Gloo", "NCCL", "coordination service", "barrier")  # in its errors
TIME_TO_FINISH = 10**5  # seconds that the others wait while the first draws and reports


@dataclasses.dataclass(frozen=True)
class Group:
    """Hold the flags that say which processes train together."""

    processes: int = option(
        1,
        "processes that train as one, all on this machine unless --coordinator says otherwise",
        minimum=1,
        maximum=10**5,
    )
    process: int = option(-1, "which of them this is, from 0; used with --coordinator", minimum=-1)
    coordinator: str = option(
        "",
        "HOST:PORT of process 0 where each process is started by hand; auto on a cluster that "
        "JAX knows, such as Open MPI or a TPU pod; SLURM's srun needs none",
    )
    process_timeout: int = option(
        60,
        "seconds after which processes end where one of them is silent or has not come; on a "
        "cluster that JAX finds, its own limits hold",
        minimum=5,
        maximum=10**5,
    )


def check_devices_text(text: str) -> None:
    """Raise `UserError` for what is neither ``auto`` nor a number of devices."""
    if text != AUTO and not re.fullmatch(r"[1-9][0-9]{0,4}", text):
        raise UserError(f"--devices: expected auto or a whole number from 1, got {text!r}.")


@dataclasses.dataclass(frozen=True)
class Hardware(Group):
    """Hold the flags that say which hardware a single run uses."""

    devices: str = option(
        AUTO,
        "devices of each process that share each batch; auto takes one, and all of one process "
        "where a trial at the start of a long training finds them faster",
        check=check_devices_text,
    )

    @property
    def count(self) -> int:
        """Return how many devices are asked for; 1 for ``auto``, which may take more later."""
        return 1 if self.devices == AUTO else int(self.devices)

    @property
    def may_try(self) -> bool:
        """Return whether a trial may find more devices faster than one."""
        alone = self.processes == 1 and not self.coordinator and not in_slurm_step()
        return self.devices == AUTO and alone


def check(asked: Group) -> None:
    """Raise `UserError` where the flags contradict each other."""
    if asked.coordinator in ("", "auto"):
        if asked.process >= 0:
            raise UserError("--process: it belongs to a --coordinator=HOST:PORT.")
        return
    host, _, port = asked.coordinator.rpartition(":")
    known = re.fullmatch(r"[^\[\]:/\s]+|\[[0-9A-Fa-f:.]+(%\w+)?\]", host)
    if not known or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 2**16:
        raise UserError(f"--coordinator: expected HOST:PORT or auto, got {asked.coordinator!r}.")
    if asked.processes < 2 or not 0 <= asked.process < asked.processes:
        raise UserError(
            "--coordinator: say how many processes there are and which of them this is, as in "
            f"--processes=2 --process=0; got {asked.processes} and {asked.process}."
        )


def are_to_be_started(asked: Group) -> bool:
    """Return whether this process only starts the ones that train, on this machine."""
    return asked.processes > 1 and not asked.coordinator and not in_slurm_step()


def in_slurm_step() -> bool:
    """Return whether ``srun`` has started this process as one of several."""
    return number_of("SLURM_STEP_NUM_TASKS", 1) > 1


def number_of(variable: str, default: int) -> int:
    """Return the number that an environment variable holds.

    Raises:
      UserError: where it holds something else.
    """
    text = os.environ.get(variable) or str(default)
    if not text.isdecimal():
        raise UserError(f"{variable}: expected a whole number, got {text!r}; unset it.")
    return int(text)


def on_this_machine(asked: Group) -> int:
    """Return how many of the processes run on this machine, as far as one of them can tell."""
    return asked.processes if asked.coordinator.startswith(f"{LOCALHOST}:") else 1


def join(asked: Group, devices: int = 1) -> None:
    """Join the processes that train together; do nothing where this one is alone.

    Call it before JAX is asked for its devices. Of accelerators, each of several processes on this
    machine takes ``devices``.

    Raises:
      UserError: where no cluster is found, or other processes do not come.
    """
    if not asked.coordinator and not in_slurm_step():
        return
    import jax

    by_hand = asked.coordinator not in ("", "auto")
    own = range(asked.process * devices, (asked.process + 1) * devices)
    watched = contextlib.nullcontext()
    if by_hand:
        watched = watched_join(
            asked.coordinator, asked.process, asked.processes, asked.process_timeout
        )
    try:
        with watched:
            jax.distributed.initialize(
                coordinator_address=asked.coordinator if by_hand else None,
                num_processes=asked.processes if by_hand else None,
                process_id=asked.process if by_hand else None,
                local_device_ids=list(own) if on_this_machine(asked) > 1 else None,
                cluster_detection_method="deactivate" if by_hand else None,
                # JAX's own limits, which the watchdog comes before where it can.
                initialization_timeout=2 * asked.process_timeout + 60,
                heartbeat_timeout_seconds=2 * asked.process_timeout + 60,
                shutdown_timeout_seconds=TIME_TO_FINISH,
            )
    except ValueError as error:
        raise UserError(
            "--coordinator=auto: JAX finds no cluster here; give --coordinator=HOST:PORT, "
            f"--processes and --process ({error})"
        ) from error
    with without_output():
        meet("joined")  # of which the libraries that connect them tell
    if not is_first():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    if in_slurm_step() and asked.processes not in (1, jax.process_count()):
        raise UserError(
            f"--processes: srun has started {jax.process_count()}, not {asked.processes}."
        )


@contextlib.contextmanager
def without_output() -> Iterator[None]:
    """Discard what any library prints meanwhile."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        yield
        ctypes.CDLL(None).fflush(None)  # what libraries in C++ still buffer
    finally:
        os.dup2(kept, 1)


def is_first() -> bool:
    """Return whether this process writes the files and prints, as one that is alone does too."""
    import jax

    return jax.process_index() == 0


def meet(where: str) -> None:
    """Wait until all processes have come to the same point."""
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(where)


def highest(*numbers: float) -> tuple[float, ...]:
    """Return, for each number, the highest value among all processes."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return numbers
    from jax.experimental import multihost_utils

    of_all = multihost_utils.process_allgather(np.asarray(numbers, np.float32))
    return tuple(of_all.max(axis=0).tolist())


def check_same_everywhere(asked: dict[str, Any]) -> None:
    """Raise `UserError`, in all processes, where they were not all asked for the same."""
    import jax
    import numpy as np

    if jax.process_count() == 1:
        return
    from jax.experimental import multihost_utils

    own = json.dumps(asked, sort_keys=True, default=str).encode()
    (length,) = highest(len(own))
    padded = np.frombuffer(own.ljust(int(length)), np.uint8)
    first, *others = [
        json.loads(row.tobytes()) for row in multihost_utils.process_allgather(padded)
    ]
    for number, other in enumerate(others, start=1):
        for name in {**first, **other}:
            if first.get(name) != other.get(name):
                raise UserError(
                    f"Process {number} was asked for something else than process 0: {name} is "
                    f"{other.get(name)} there and {first.get(name)} here."
                )


@contextlib.contextmanager
def by_the_first(manager: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    """Enter a context in the first process alone, and let the others go on once it is inside.

    Raises:
      UserError: in all processes, where the first one refuses.
    """
    with contextlib.ExitStack() as entered:
        refusal = None
        if is_first():
            try:
                entered.enter_context(manager)
            except UserError as error:
                refusal = error
        (refused,) = highest(refusal is not None)
        if refused:
            raise refusal or UserError("Process 0 refuses the run; it says why.")
        yield


def is_one_of_several() -> bool:
    """Return whether this process has joined others."""
    jax = sys.modules.get("jax")
    return jax is not None and jax.distributed.is_initialized()


def ends_alone(main: Callable[[], int]) -> NoReturn:
    """End the process with the status that ``main`` returns or, after an exception, with 1.

    One of several processes that failed does not wait for the others, as it would by default.
    """
    try:
        status = main()
    except Exception as error:
        status = 1
        if is_one_of_several() and any(word in str(error) for word in LOST_PROCESS):
            print(
                "error: another process has ended, and says why; the same command goes on from "
                "the last checkpoint.",
                file=sys.stderr,
            )
        else:
            traceback.print_exc()
    if status and is_one_of_several():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)

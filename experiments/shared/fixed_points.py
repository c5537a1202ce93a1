"""Find the states at which a trained network rests, and show what they hold."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.flatten_util import ravel_pytree

import recurrent
from experiments.harness.errors import UserError
from experiments.harness.program import Exhibit, Figure, Finished, Table
from experiments.harness.runs import Command, Run
from experiments.shared.evaluations import leave_evaluation
from experiments.shared.memory import HELD_OUT
from experiments.shared.remembering import Problem, numbered
from recurrent.combinators import StackState
from recurrent.fixed_points import FixedPoints, find_fixed_points

LARGEST = 512  # numbers of a state, of whose Jacobians eigenvalues are computed
FEWEST, MOST = 256, 4000  # starts
PER_POINT = 16  # starts for each of the 3^N points that N bits are expected to have
READ = 200  # sequences of the test split whose states are starts
SETTLING = 20_000  # steps
MIXED = 4  # visited states, of which a start is a mean with random weights
DRAWN = 12  # sequences in the picture
TOLERANCE = 1e-12  # of q, below which a point is fixed


class Study(NamedTuple):
    """Hold a problem, a cell, and the network made of it: ``stack(cell, readout)``."""

    problem: Problem
    cell: recurrent.Cell
    network: recurrent.Cell


class Search(NamedTuple):
    """Hold the points of a network, its way through state space, and how long the search took.

    Attributes:
      points: those found, without any input.
      flat: their states as vectors ``[K, N]``.
      unstable: directions ``[K]`` in which a point drives away what lies near it.
      outputs: ``[K, O]``, what the network answers there.
      paths: ``[T, B, N]``, its states in some test sequences.
      seconds: of the search, compiling included.
    """

    points: FixedPoints
    flat: np.ndarray
    unstable: np.ndarray
    outputs: np.ndarray
    paths: np.ndarray
    seconds: float


def check_state(name: str, cell: recurrent.Cell) -> None:
    """Raise `UserError` for a cell whose state is not a moderate number of floats."""

    def state(key: Any) -> Any:
        return cell.initial_state(cell.init(key), ())

    leaves = jax.tree.leaves(jax.eval_shape(state, jax.random.key(0)))
    size = sum(leaf.size for leaf in leaves)
    if not size or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        raise UserError(
            f"--cell: expected one whose state is of floating-point numbers alone, and that of "
            f"{name} counts its steps or holds other things; take one such as gru."
        )
    if size > LARGEST:
        raise UserError(
            f"--cell: expected a state of at most {LARGEST} numbers, of which Jacobians are taken, "
            f"and that of {name} has {size}; choose a smaller --hidden_size, or another cell."
        )


def searched(study: Study, params: Any) -> Search:
    """Find the fixed points of a trained cell without input, in float64.

    The starts are states that it visits in test sequences, means of a few of those with random
    weights, since saddles lie between the states that are visited, and states to which visited
    ones settle without input, since a stable point that attracts slowly is otherwise missed.
    """
    began = time.monotonic()
    xs, _ = numbered(study.problem, HELD_OUT["valid"] + jnp.arange(READ))
    with jax.enable_x64(True):
        wide = jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), params)
        visited = jax.jit(lambda own, xs: states_of(study.cell, own, xs))(
            wide["layer_0"], jnp.asarray(np.asarray(xs), float)
        )
        count = min(max(FEWEST, PER_POINT * 3**study.problem.inputs), MOST)
        chosen = starts(visited, count)
        resting = jax.jit(lambda own, states: settled(study.cell, own, states))(
            wide["layer_0"], jax.tree.map(lambda leaf: leaf[: count // 2], chosen)
        )
        points = find_fixed_points(
            study.cell,
            wide["layer_0"],
            jnp.zeros(study.problem.inputs),
            jax.tree.map(lambda *leaves: jnp.concatenate(leaves), chosen, resting),
            tolerance=TOLERANCE,
        )
        quiet = jnp.zeros((len(points.speeds), study.problem.inputs))
        _, ys = study.network.step(wide, StackState((points.states, ())), quiet)
        flat = jax.vmap(lambda state: ravel_pytree(state)[0])
        some = jax.tree.map(lambda leaf: leaf[:, :DRAWN], visited)
        return Search(
            points=points,
            flat=np.asarray(flat(points.states)),
            unstable=(abs(points.eigenvalues) >= 1).sum(1),
            outputs=np.asarray(ys),
            paths=np.asarray(jax.vmap(flat)(some)),
            seconds=time.monotonic() - began,
        )


def states_of(cell: recurrent.Cell, params: Any, xs: Array) -> Any:
    """Return the states after each step of sequences, each leaf ``[T, B, ...]``."""
    return recurrent.unroll(cell, params, xs, return_states=True)[1][1]


def settled(cell: recurrent.Cell, params: Any, states: Any) -> Any:
    """Return where states ``[K, ...]`` are after `SETTLING` steps without input."""
    count = len(jax.tree.leaves(states)[0])
    quiet = jnp.zeros((count, *cell.input_shape))
    step = lambda _, state: cell.step(params, state, quiet)[0]  # noqa: E731
    return jax.lax.fori_loop(0, SETTLING, step, states)


def starts(visited: Any, count: int) -> Any:
    """Return as many states, half of them visited, half of them means of a few visited ones.

    Args:
      visited: each leaf ``[T, B, ...]``.
      count: K.

    Returns:
      Each leaf ``[K, ...]``.
    """
    rng = np.random.default_rng(0)
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), visited)
    chosen = rng.integers(0, len(jax.tree.leaves(flat)[0]), (count, MIXED))
    weights = rng.dirichlet(np.full(MIXED, 0.5), count)
    weights[: count // 2] = np.eye(MIXED)[0]
    return jax.tree.map(lambda leaf: jnp.einsum("km,km...->k...", weights, leaf[chosen]), flat)


def numbers(found: Search) -> dict[str, Any]:
    """Return what the search found, as the file of the command holds it."""
    fixed, stable, slow = kinds(found)
    slowest = found.points.time_constants[stable]
    saddles = found.unstable[fixed & ~stable]
    return {
        "stable": int(stable.sum()),
        "patterns": len(set(patterns(found.outputs[stable]))),
        "saddles": len(saddles),
        **{f"saddles_{k}": int((saddles == k).sum()) for k in sorted({*saddles.tolist()})},
        "slow_points": int(slow.sum()),
        "largest_q": float(found.points.speeds[fixed].max(initial=0.0)),
        "slowest_time_constant": float(slowest.max(initial=0.0)),
        "seconds": round(found.seconds, 3),
    }


def kinds(found: Search) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which points are fixed, which of those are stable, and which are slow, ``[K]``."""
    fixed = found.points.is_fixed
    return fixed, fixed & found.points.is_stable, ~fixed


def patterns(outputs: np.ndarray) -> list[str]:
    """Write the signs of outputs ``[K, O]``.

    Example:
      >>> patterns(np.array([[0.9, -1.1], [-1.0, -1.0]]))
      ['+\u2212', '\u2212\u2212']
    """
    return ["".join("+" if y > 0 else "\u2212" for y in row) for row in outputs]


@dataclasses.dataclass(frozen=True)
class FixedPointFlags:
    """Hold the flags of ``./launch.sh fixed_points``: there are none."""


def fixed_points_command(study_of: Callable[[Any], Study]) -> Command:
    """Return the command, for an experiment whose study is ``study_of(config)``."""

    def fixed_points(run: Run, flags: FixedPointFlags) -> Iterator[str]:
        found = searched(study_of(run.config), run.kept)
        said = numbers(found)
        leave_evaluation(run, "evaluation-fixed_points", said)
        yield f"{message(found, run.config.bits)}\n"
        yield "\n".join(f"{name}: {value:.4g}" for name, value in said.items())

    return Command(FixedPointFlags, fixed_points, "find where the cell rests without input")


def exhibits(study: Study, finished: Finished) -> Iterator[Exhibit]:
    """Draw a test sequence, the points between the states that are visited, and their speeds."""
    from experiments.figures.memory import progress

    yield Figure(
        "progress",
        "Against having held nothing",
        "The gray line is the loss of an answer that holds nothing, and says pulses alone.",
        progress(finished.rows, study.problem.nothing),
    )
    yield held_sequence(study, finished.kept)
    found = searched(study, finished.kept)
    yield landscape(found, study.problem.outputs)
    yield speeds(found)
    yield table(found)


def held_sequence(study: Study, params: Any) -> Figure:
    """Draw a test sequence and the answers to it."""
    from experiments.figures.fixed_points import held

    xs, targets = numbered(study.problem, HELD_OUT["valid"] + jnp.arange(1))
    ys = jax.jit(lambda params, xs: recurrent.unroll(study.network, params, xs)[1])(params, xs)
    return Figure(
        "held",
        "What it holds",
        "A test sequence: pulses as bars, what is to be held as a gray line, and the outputs.",
        held(np.asarray(xs)[:, 0], np.asarray(targets)[0], np.asarray(ys)[:, 0]),
    )


def landscape(found: Search, bits: int) -> Figure:
    """Draw fixed points between the states that are visited."""
    from experiments.figures import fixed_points

    fixed = found.points.is_fixed
    return Figure(
        "landscape",
        "Where it rests",
        f"States in {DRAWN} test sequences (gray), and the points at which the cell rests without "
        "input, along the three directions in which visited states vary most, seen from an angle. "
        "Dots are stable, and named by the signs of the outputs there. Saddles push away what is "
        "near them along the short lines, their unstable directions, and attract along all others.",
        fixed_points.landscape(
            message(found, bits),
            found.paths,
            found.flat[fixed],
            found.unstable[fixed],
            unstable_directions(found, fixed),
            patterns(found.outputs[fixed]),
        ),
    )


def speeds(found: Search) -> Figure:
    """Draw how many points move by how much."""
    from experiments.figures import fixed_points

    return Figure(
        "speeds",
        "How still each point is",
        f"q is half the squared length of a step. Points below {TOLERANCE:g} are fixed: what is "
        "left of them is rounding. Slow points are minima of q, through which states only pass "
        "slowly.",
        fixed_points.speeds(found.points.speeds, found.points.is_fixed, TOLERANCE),
    )


def unstable_directions(found: Search, chosen: np.ndarray) -> list[np.ndarray]:
    """Return the directions in which each chosen point is unstable, unit vectors ``[U, N]``."""
    rows = []
    for jacobian in found.points.jacobians[chosen]:
        values, vectors = np.linalg.eig(jacobian)
        rows.append(real_span(vectors[:, abs(values) >= 1]).T)
    return rows


def real_span(vectors: Any) -> np.ndarray:
    """Return an orthonormal basis ``[N, U]`` of what U eigenvectors ``[N, U]`` span.

    Complex ones come in pairs, which share the plane of their real and imaginary parts.
    """
    both = np.concatenate([vectors.real, vectors.imag], axis=1)
    return np.linalg.svd(both, full_matrices=False)[0][:, : vectors.shape[1]]


def table(found: Search) -> Table:
    """Return the kinds of points, and how fast the dynamics near them are."""
    fixed, stable, slow = kinds(found)
    groups = {"stable": stable}
    for k in sorted({*found.unstable[fixed & ~stable].tolist()}):
        groups[f"saddle, {k} unstable"] = fixed & ~stable & (found.unstable == k)
    groups["slow, not fixed"] = slow
    rows = []
    for name, mask in groups.items():
        times, q = found.points.time_constants[mask, 0], found.points.speeds[mask]
        said = [f"{times.min():.1f} to {times.max():.1f}", f"{q.max():.1e}"] if q.size else "--"
        rows.append([name, str(q.size), *said])
    return Table(
        "points",
        "The points by kind",
        "Time constants, in steps, are those of the direction whose eigenvalue is largest: of a "
        "stable point the slowest to settle, of a saddle the fastest to leave.",
        ["kind", "points", "time constant", "largest q"],
        rows,
    )


def message(found: Search, bits: int) -> str:
    """Say how many points there are, and whether each pattern has one."""
    said = numbers(found)
    stable, held, saddles = (said[name] for name in ("stable", "patterns", "saddles"))
    every = f"one for each of the {2**bits} patterns of {bits} bits"
    few = f"which hold {held} of the {2**bits} patterns of {bits} bits"
    what = every if stable == held == 2**bits else few
    return f"{stable} stable points, {what}, and {saddles} saddles"

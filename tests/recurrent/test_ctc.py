"""Compare CTC decoding with sums over all paths, plain Python, and losses of Optax and torch."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from recurrent.ctc import LabelBeams, ctc_greedy, ctc_prefix_beam, edit_distances
from recurrent.errors import ArgumentError
from tests.recurrent import reference_decoding as reference


def random_log_probs(seed: int, shape: tuple[int, int, int], scale: float = 1.5) -> np.ndarray:
    """Return random log-probabilities ``[T, B, V]``, normalized in each frame."""
    logits = scale * np.random.default_rng(seed).normal(size=shape)
    return np.apply_along_axis(reference.log_softmax, -1, logits)


jitted_greedy = jax.jit(ctc_greedy, static_argnames="blank")
jitted_search = jax.jit(ctc_prefix_beam, static_argnames=("beam_size", "blank"))


def search(log_probs: Any, lengths: Any, **options: Any) -> LabelBeams:
    """Run prefix beam search in float64."""
    with jax.enable_x64(True):
        return jax.tree.map(np.asarray, jitted_search(log_probs, lengths, **options))


def search_by_hand(frames: Any) -> LabelBeams:
    """Run nine beams over up to six frames of probabilities ``[T, 3]``, padded to one shape."""
    frames = np.asarray(frames, np.float64).reshape(-1, 3)
    padded = np.full((6, 1, 3), np.nan)
    with np.errstate(divide="ignore"):
        padded[: len(frames), 0] = np.log(frames)
    return search(padded, np.array([len(frames)]), beam_size=9)


def found_labels(beams: LabelBeams, row: int) -> dict[reference.Tokens, float]:
    """Return the log-probability of each label sequence of one batch element, best first."""
    return {
        tuple(labels[:length].tolist()): float(log_prob)
        for labels, length, log_prob in zip(*[part[row] for part in beams], strict=True)
        if log_prob > -np.inf
    }


def assert_same_labels(beams: LabelBeams, row: int, expected: Any, rtol: float = 1e-12) -> None:
    """Compare with ``expected``, pairs of labels and probability, best first."""
    found = found_labels(beams, row)
    assert list(found) == [labels for labels, _ in expected]
    np.testing.assert_allclose(np.exp([*found.values()]), [p for _, p in expected], rtol=rtol)


def by_probability(probabilities: dict[reference.Tokens, float]) -> list[Any]:
    return sorted(probabilities.items(), key=lambda pair: -pair[1])


# Greedy


@pytest.mark.parametrize("blank", [0, 2])
def test_ctc_greedy_collapses_the_best_path(blank: int) -> None:
    log_probs = random_log_probs(0, (12, 5, 3))
    lengths = np.array([12, 7, 1, 0, 9])
    found = jax.tree.map(np.asarray, jitted_greedy(log_probs, lengths, blank=blank))
    collapsed = 0
    for row, length in enumerate(lengths):
        path = log_probs[:length, row].argmax(axis=-1).tolist()
        labels = reference.collapse(path, blank)
        assert found.lengths[row] == len(labels)
        assert tuple(found.labels[row, : len(labels)].tolist()) == labels
        assert (found.labels[row, len(labels) :] == blank).all()
        collapsed += len([symbol for symbol in path if symbol != blank]) - len(labels)
    assert collapsed > 2
    assert found.labels.shape == (5, 12)


@pytest.mark.long
@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ([1, 1, 1], [1]),
        ([1, 0, 1], [1, 1]),
        ([0, 0, 0], []),
        ([1, 2, 1], [1, 2, 1]),
        ([0, 2, 2], [2]),
        ([2], [2]),
        ([0], []),
    ],
)
def test_ctc_decoding_merges_repeats_and_drops_blanks(path: list[int], labels: list[int]) -> None:
    best = jitted_greedy(np.eye(3)[path + [0] * (3 - len(path))][:, None], np.array([len(path)]))
    assert best.labels[0, : int(best.lengths[0])].tolist() == labels
    beams = search_by_hand(np.eye(3)[path])
    assert found_labels(beams, 0) == {tuple(labels): 0.0}
    assert beams.lengths[0].tolist() == [len(labels)] + 8 * [0]
    assert (beams.labels[0, 1:] == 0).all()


def test_ctc_greedy_breaks_ties_by_the_lowest_symbol() -> None:
    found = jitted_greedy(np.zeros((2, 1, 3)), np.array([2]), blank=2)
    assert found.labels[0].tolist() == [0, 2]


# Prefix search


@pytest.mark.parametrize("blank", [0, 1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_prefix_beam_search_over_all_prefixes_gives_exact_probabilities(
    seed: int, blank: int
) -> None:
    log_probs = random_log_probs(seed, (5, 4, 3))
    lengths = np.array([5, 3, 1, 0])
    beams = search(log_probs, lengths, beam_size=2**6, blank=blank)
    for row, length in enumerate(lengths):
        probs = np.exp(log_probs[:length, row])
        expected = by_probability(reference.label_probabilities(probs, blank))
        assert_same_labels(beams, row, expected)
        np.testing.assert_allclose(np.exp(beams.log_probs[row]).sum(), 1, rtol=1e-12)


@pytest.mark.parametrize("beam_size", [1, 2, 6, 25])
def test_prefix_beam_search_equals_plain_python(beam_size: int) -> None:
    time, batch, vocabulary, blank = 20, 40, 4, 1
    log_probs = random_log_probs(5, (time, batch, vocabulary), scale=1.0)
    lengths = np.random.default_rng(1).integers(0, time + 1, batch)
    beams = search(log_probs, lengths, beam_size=beam_size, blank=blank)
    comebacks = 0
    for row, length in enumerate(lengths):
        expected, back = reference.prefix_beam(np.exp(log_probs[:length, row]), blank, beam_size)
        assert_same_labels(beams, row, expected, rtol=1e-11)
        comebacks += back
    # Unless some prefix came back, the test could not detect a search that treats equal prefixes
    # with different histories as different.
    assert comebacks > 0 or beam_size < 2


def test_the_most_probable_labels_can_differ_from_the_best_path() -> None:
    frames = [[0.6, 0.4, 0.0]] * 2
    assert jitted_greedy(np.array(frames)[:, None], np.array([2])).lengths[0] == 0
    # Paths of "1": 1-blank, blank-1, 1-1.
    assert_same_labels(search_by_hand(frames), 0, [((1,), 0.24 + 0.24 + 0.16), ((), 0.36)])


def test_a_single_frame_gives_each_symbol_with_the_probability_of_the_frame() -> None:
    beams = search_by_hand([[0.2, 0.5, 0.3]])
    assert_same_labels(beams, 0, [((1,), 0.5), ((2,), 0.3), ((), 0.2)])


def test_blank_frames_and_empty_input_give_no_labels() -> None:
    beams = search_by_hand([[0.98, 0.01, 0.01]] * 6)
    assert beams.lengths[0, 0] == 0
    np.testing.assert_allclose(np.exp(beams.log_probs[0, 0]), 0.98**6, rtol=1e-12)
    beams = search_by_hand([])
    assert beams.log_probs[0].tolist() == [0.0] + [-np.inf] * 8
    assert (beams.labels == 0).all()
    assert (beams.lengths == 0).all()


def test_prefix_beam_search_breaks_ties_by_beam_then_symbol() -> None:
    assert list(found_labels(search_by_hand([[1 / 3] * 3]), 0)) == [(), (1,), (2,)]


def test_a_vocabulary_of_only_the_blank_gives_empty_labels() -> None:
    beams = search(np.zeros((4, 1, 1)), np.array([4]), beam_size=2)
    assert found_labels(beams, 0) == {(): 0.0}


@pytest.mark.long
def test_ctc_decoding_ignores_padding() -> None:
    log_probs = random_log_probs(2, (8, 3, 4))
    lengths = np.array([8, 5, 0])
    padded = log_probs.copy()
    for row, length in enumerate(lengths):
        padded[length:, row] = np.nan
    clean = search(log_probs, lengths, beam_size=4), jitted_greedy(log_probs, lengths)
    spoilt = search(padded, lengths, beam_size=4), jitted_greedy(padded, lengths)
    jax.tree.map(np.testing.assert_array_equal, spoilt, clean)
    for row, length in enumerate(lengths):
        expected, _ = reference.prefix_beam(np.exp(log_probs[:length, row]), 0, 4)
        assert_same_labels(spoilt[0], row, expected)


@pytest.mark.long
def test_prefix_beam_search_of_long_sequences_stays_finite_in_float32() -> None:
    log_probs = random_log_probs(4, (300, 1, 6), scale=3.0)
    beams = jitted_search(log_probs.astype(np.float32), np.array([300]), beam_size=6)
    expected, _ = reference.prefix_beam(np.exp(log_probs[:, 0]), 0, 6)
    assert beams.log_probs.dtype == jnp.float32
    assert beams.log_probs[0, 0] < -100
    np.testing.assert_allclose(beams.log_probs[0], np.log([p for _, p in expected]), rtol=1e-5)
    assert tuple(beams.labels[0, 0, : beams.lengths[0, 0]].tolist()) == expected[0][0]


@pytest.mark.long
def test_prefix_beam_search_widens_bfloat16() -> None:
    log_probs = jnp.asarray(random_log_probs(4, (30, 1, 6)), jnp.bfloat16)
    beams = jax.tree.map(np.asarray, jitted_search(log_probs, np.array([30]), beam_size=6))
    expected, _ = reference.prefix_beam(np.exp(np.asarray(log_probs[:, 0], np.float64)), 0, 6)
    assert_same_labels(beams, 0, expected, rtol=1e-4)


@pytest.mark.long
def test_prefix_beam_search_traces_once_under_jit_and_runs_without_jit() -> None:
    traces = []

    @jax.jit
    def run(log_probs: Any, lengths: Any) -> LabelBeams:
        traces.append(lengths)
        return ctc_prefix_beam(log_probs, lengths, beam_size=3)

    def check(search: Any, seed: int) -> None:
        log_probs, lengths = random_log_probs(seed, (6, 2, 4)), np.array([6 - seed, seed])
        beams = jax.tree.map(np.asarray, search(log_probs.astype(np.float32), lengths))
        for row, length in enumerate(lengths):
            expected, _ = reference.prefix_beam(np.exp(log_probs[:length, row]), 0, 3)
            assert_same_labels(beams, row, expected, rtol=1e-5)

    for seed in range(3):
        check(run, seed)
    assert len(traces) == 1
    check(partial(ctc_prefix_beam, beam_size=3), 1)


# The CTC loss


def optax_loss(log_probs: Any, lengths: Any, labels: Any, label_lengths: Any, blank: int) -> Any:
    """Return `optax.ctc_loss` of time-major log-probabilities and labels ``[B, N]``."""
    time, most = log_probs.shape[0], labels.shape[1]
    return optax.ctc_loss(
        jnp.swapaxes(log_probs, 0, 1),
        (jnp.arange(time) >= jnp.asarray(lengths)[:, None]).astype(log_probs.dtype),
        labels,
        (jnp.arange(most) >= jnp.asarray(label_lengths)[:, None]).astype(log_probs.dtype),
        blank_id=blank,
    )


@pytest.mark.long
def test_exact_prefix_log_probs_equal_minus_the_ctc_loss() -> None:
    blank = 3
    with jax.enable_x64(True):
        log_probs = jnp.asarray(random_log_probs(8, (5, 3, 4)))
        lengths = jnp.array([5, 4, 2])
        beams = jitted_search(log_probs, lengths, beam_size=364, blank=blank)
        best = LabelBeams(*[part[:, :10] for part in beams])
        loss = jax.jit(jax.vmap(partial(optax_loss, blank=blank), (None, None, 1, 1), 1))
        losses = loss(log_probs, lengths, best.labels, best.lengths)
        np.testing.assert_allclose(best.log_probs, -losses, rtol=1e-10)
        is_repeat = (best.labels[..., 1:] == best.labels[..., :-1]) & (
            best.labels[..., 1:] != blank
        )
        assert is_repeat.any()


def test_the_ctc_loss_of_optax_equals_torch() -> None:
    torch = pytest.importorskip("torch", reason="torch is installed for comparisons only")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(10, 4, 5))
    lengths, label_lengths = np.array([10, 9, 6, 10]), np.array([4, 2, 1, 0])
    labels = rng.integers(1, 5, (4, 4))
    labels[0] = [2, 2, 3, 3]
    with jax.enable_x64(True):

        def loss(logits: Any) -> Any:
            log_probs = jax.nn.log_softmax(logits)
            return optax_loss(log_probs, lengths, jnp.asarray(labels), label_lengths, 0)

        ours = jax.jit(loss)(logits)
        gradient = jax.jit(jax.grad(lambda logits: loss(logits).sum()))(logits)
    theirs_logits = torch.tensor(logits, requires_grad=True)
    theirs = torch.nn.functional.ctc_loss(
        theirs_logits.log_softmax(-1),
        torch.tensor(labels),
        torch.tensor(lengths),
        torch.tensor(label_lengths),
        reduction="none",
    )
    theirs.sum().backward()
    np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-10)
    np.testing.assert_allclose(gradient, theirs_logits.grad.numpy(), atol=1e-10)


# Invalid arguments


@pytest.mark.parametrize("run", [ctc_greedy, partial(ctc_prefix_beam, beam_size=2)])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"log_probs": np.zeros((4, 3))}, r"log_probs: expected the shape \[T, B, V\].*\[4, 3\]"),
        ({"log_probs": np.zeros((0, 2, 3))}, r"log_probs: expected the shape .*\[0, 2, 3\]"),
        ({"log_probs": np.zeros((4, 2, 3), int)}, r"log_probs: expected floats, got int32"),
        ({"lengths": [4]}, r"lengths: expected the shape \[B=2\], got \[1\]"),
        ({"lengths": [4.0, 1.0]}, r"lengths: expected integers, got float32"),
        ({"lengths": [4, 5]}, r"lengths: expected values from 0 to T=4, got 5"),
        ({"lengths": [-1, 4]}, r"lengths: expected values from 0 to T=4, got -1"),
        ({"blank": 3}, r"blank: expected a token from 0 to 2, got 3"),
        ({"blank": -1}, r"blank: expected a token from 0 to 2, got -1"),
    ],
)
def test_invalid_ctc_input_is_an_error(run: Any, options: Any, message: str) -> None:
    arguments: dict[str, Any] = {"log_probs": np.zeros((4, 2, 3)), "lengths": [4, 2]}
    with pytest.raises(ValueError, match=message):
        run(**(arguments | options))


@pytest.mark.parametrize("beam_size", [0, -1])
def test_a_ctc_beam_size_below_one_is_an_error(beam_size: int) -> None:
    with pytest.raises(ValueError, match=f"beam_size: expected at least 1, got {beam_size}"):
        ctc_prefix_beam(np.zeros((4, 2, 3)), [4, 2], beam_size=beam_size)


@pytest.mark.long
@pytest.mark.parametrize("bits", [0x7FC00000, 0xFFC00000])  # NaN without and with its sign
def test_a_frame_of_nan_gives_no_scores_that_look_sound(bits: int) -> None:
    nan = np.array(bits, np.uint32).view(np.float32)
    log_probs = np.log(np.full((3, 2, 4), 0.25, np.float32))
    log_probs[1, 0, 2] = nan
    beams = ctc_prefix_beam(log_probs, jnp.array([3, 3]), beam_size=3)
    assert np.isnan(beams.log_probs[0]).all()
    assert np.isfinite(beams.log_probs[1]).all()
    unread = ctc_prefix_beam(log_probs, jnp.array([1, 3]), beam_size=3)
    np.testing.assert_allclose(unread.log_probs[0], np.log(0.25), rtol=1e-6)


def distance(found: tuple[int, ...], true: tuple[int, ...]) -> int:
    """Return the edit distance by its recursive definition."""
    if not found or not true:
        return len(found) + len(true)
    beside = min(distance(found[1:], true), distance(found, true[1:])) + 1
    return min(distance(found[1:], true[1:]) + (found[0] != true[0]), beside)


def test_edit_distances_equal_the_recursive_definition() -> None:
    rng = np.random.default_rng(0)
    found, true = rng.integers(0, 3, (60, 5)), rng.integers(0, 3, (60, 4))
    lengths = rng.integers(0, 6, 60), rng.integers(0, 5, 60)
    expected = [
        distance(tuple(a[:m]), tuple(b[:n]))
        for a, b, m, n in zip(found, true, *lengths, strict=True)
    ]
    assert jax.jit(edit_distances)(found, lengths[0], true, lengths[1]).tolist() == expected


def test_edit_distances_of_other_shapes_are_an_error() -> None:
    ids, lengths = jnp.zeros((2, 3), int), jnp.zeros(2, int)
    for wrong in ((ids[0], lengths, ids, lengths), (ids, lengths[:1], ids, lengths)):
        with pytest.raises(ArgumentError, match="expected the shapes"):
            edit_distances(*wrong)

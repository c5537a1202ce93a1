"""Decode in plain Python and float64: slow, obvious references to compare with."""

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

import numpy as np

Tokens = tuple[int, ...]
NextLogProbs = Callable[[Tokens], np.ndarray]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


def filtered_probs(
    logits: np.ndarray, temperature: float, top_k: int | None, top_p: float | None
) -> np.ndarray:
    """Return the sampling distribution of one row of logits ``[V]``."""
    by_size = sorted(range(len(logits)), key=lambda token: (-logits[token], token))
    if temperature == 0:
        by_size, temperature = by_size[:1], 1.0
    by_size = by_size[:top_k]
    weights = {token: np.exp((logits[token] - logits.max()) / temperature) for token in by_size}
    if top_p is not None and top_p < 1:
        total, mass, nucleus = sum(weights.values()), 0.0, []
        for token in by_size:
            nucleus.append(token)
            mass += weights[token] / total
            if mass >= top_p:
                break
        weights = {token: weights[token] for token in nucleus}
    probs = np.zeros(len(logits))
    for token, weight in weights.items():
        probs[token] = weight / sum(weights.values())
    return probs


def penalty(length: int, alpha: float) -> float:
    return ((5 + length) / (5 + 1)) ** alpha


def all_sequences(
    log_probs: NextLogProbs, vocabulary: int, length: int, stop: int | None, alpha: float
) -> list[tuple[float, Tokens]]:
    """Return every complete sequence with its score, best first."""
    found = []
    for tokens in complete(vocabulary, length, stop):
        total = sum(log_probs(tokens[:t])[token] for t, token in enumerate(tokens))
        found.append((total / penalty(len(tokens), alpha), tokens))
    return sorted(found, key=lambda pair: -pair[0])


def complete(vocabulary: int, length: int, stop: int | None) -> Iterator[Tokens]:
    for size in range(1, length + 1):
        for tokens in itertools.product(range(vocabulary), repeat=size):
            ends = tokens[-1] == stop or size == length
            if ends and stop not in tokens[:-1]:
                yield tokens


def beam_search(
    log_probs: NextLogProbs,
    vocabulary: int,
    length: int,
    stop: int | None,
    alpha: float,
    beam_size: int,
) -> list[tuple[float, Tokens]]:
    """Run the documented beam search, always to the last step."""
    live: list[tuple[float, Tokens]] = [(0.0, ())]
    finished: list[tuple[float, Tokens]] = []
    for size in range(1, length + 1):
        grown = [
            (total + log_probs(tokens)[token], (*tokens, token))
            for total, tokens in live
            for token in range(vocabulary)
        ]
        ended = [(total, tokens) for total, tokens in grown if tokens[-1] == stop]
        finished += [(total / penalty(size, alpha), tokens) for total, tokens in ended]
        finished = sorted(finished, key=lambda pair: -pair[0])[:beam_size]
        live = [(total, tokens) for total, tokens in grown if tokens[-1] != stop]
        live = sorted(live, key=lambda pair: -pair[0])[:beam_size]
    finished += [(total / penalty(length, alpha), tokens) for total, tokens in live]
    return sorted(finished, key=lambda pair: -pair[0])[:beam_size]


def collapse(path: Sequence[int], blank: int) -> Tokens:
    """Merge repeats, then drop blanks."""
    return tuple(symbol for symbol, _ in itertools.groupby(path) if symbol != blank)


def label_probabilities(probs: np.ndarray, blank: int) -> dict[Tokens, float]:
    """Return the probability of each label sequence, summed over all paths; probs ``[T, V]``."""
    time, vocabulary = probs.shape
    totals: dict[Tokens, float] = defaultdict(float)
    for path in itertools.product(range(vocabulary), repeat=time):
        totals[collapse(path, blank)] += float(
            np.prod([probs[t, symbol] for t, symbol in enumerate(path)])
        )
    return dict(totals)


def prefix_beam(
    probs: np.ndarray, blank: int, beam_size: int
) -> tuple[list[tuple[Tokens, float]], int]:
    """Run CTC prefix beam search with dictionaries and plain probabilities ``[T, V]``.

    Also count how often a dropped prefix came back while one of its extensions was still in the
    beam.
    """
    beam: dict[Tokens, tuple[float, float]] = {(): (1.0, 0.0)}
    seen: set[Tokens] = {()}
    comebacks = 0
    for frame in probs:
        ends_blank: dict[Tokens, float] = defaultdict(float)
        ends_label: dict[Tokens, float] = defaultdict(float)
        for prefix, (blank_mass, label_mass) in beam.items():
            ends_blank[prefix] += (blank_mass + label_mass) * frame[blank]
            for symbol in set(range(len(frame))) - {blank}:
                if prefix and symbol == prefix[-1]:
                    ends_label[prefix] += label_mass * frame[symbol]
                    ends_label[(*prefix, symbol)] += blank_mass * frame[symbol]
                else:
                    ends_label[(*prefix, symbol)] += (blank_mass + label_mass) * frame[symbol]
        masses = {
            prefix: (ends_blank[prefix], ends_label[prefix])
            for prefix in set(ends_blank) | set(ends_label)
        }
        possible = [pair for pair in masses.items() if sum(pair[1]) > 0]
        best = sorted(possible, key=lambda pair: -sum(pair[1]))[:beam_size]
        back = {prefix for prefix, _ in best} & (seen - set(beam))
        comebacks += sum(other[: len(p)] == p != other for p in back for other in beam)
        beam = dict(best)
        seen |= set(beam)
    return [(prefix, sum(mass)) for prefix, mass in beam.items()], comebacks

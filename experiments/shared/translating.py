"""Build encoder-decoder networks from a Config, read and judge with them, and write."""

import dataclasses
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.vocabulary import END, Vocabulary, padded, vocabulary_of
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.tasks import MinibatchConfig
from recurrent import decoding, losses
from recurrent.attention import Attention
from recurrent.losses import Average
from recurrent.seq2seq import EncoderDecoder
from recurrent.training.bucketing import Buckets, bucket_sizes
from recurrent.training.task import Metric, Metrics

SIZES = 4  # to which batches are cut
TOGETHER = 1280  # sequences decoded at once, those of a beam among them
NAMED = 50  # words of a vocabulary, in an error
LOSS = Metric("loss", higher_is_better=False, format="{:.4f} nats a word")
EXACT = Metric("exact", higher_is_better=True, format="{:.2%} right")


@dataclasses.dataclass(frozen=True)
class TranslatorConfig(MinibatchConfig):
    """Hold the fields of an encoder-decoder network."""

    cell: str = cell_option("lstm", "; it must not look ahead")
    layers: int = option(1, "layers of the encoder, and of the decoder", minimum=1, maximum=100)
    hidden_size: int = option(128, "H, of each direction and layer", minimum=1, maximum=10**5)
    embedding_size: int = option(64, "size of the vector of a word", minimum=1, maximum=10**5)
    embedding_std: float = option(
        0.0,
        "standard deviation of new vectors of words; 0 for 1 / sqrt(embedding_size). Where they "
        "are longer than what training adds, as with 1, what is learned of some words holds for "
        "others that are seen less",
        minimum=0,
    )
    attention: str = option(
        "additive",
        "how the decoder looks at what was read; last is the last step alone",
        choices=("additive", "multiplicative", "last"),
    )
    query: str = option(
        "top",
        "what asks where to look: the top of the decoder after the last word, and all its layers "
        "read what was found; or its first layer after this word, and those above read it, which "
        "trains faster and needs 2 --layers",
        choices=("top", "first"),
    )
    direct: bool = option(
        False,
        "whether what the decoder finds has the words' vectors too, beside the states of the "
        "encoder, so that a word is carried over as it is",
    )
    dropout: float = option(
        0.2, "share of features dropped after each layer", traced=True, minimum=0, below=1
    )
    ends: bool = option(
        True, "whether the end is written too; if not, the true length is given in the test"
    )


class Languages(NamedTuple):
    """Hold the two vocabularies, and the longest sentences of both, their ends included."""

    sources: Vocabulary
    targets: Vocabulary
    longest_source: int
    longest_target: int


def network_of(
    config: Any,
    languages: Languages,
    dropout: Any = 0.0,
    key: Array | None = None,
    weighted: bool = False,
) -> EncoderDecoder:
    """Return the network.

    Args:
      config: of the run.
      languages: the vocabularies.
      dropout: the share of features dropped.
      key: decides which; None in evaluation.
      weighted: whether it reads weights of all words in place of words; unlike words, they have a
        gradient.

    Raises:
      UserError: for a cell that looks ahead, which could not write word by word, or a first layer
        that asks with none above it.
    """
    if config.query == "first" and config.layers < 2:
        raise UserError("--query: first needs a layer above the one that asks; give --layers=2.")
    size, width = config.hidden_size, config.embedding_size
    count = 2 * config.layers + 1
    keys = iter([None] * count if key is None else jax.random.split(key, count))
    drawn = jax.nn.initializers.normal(config.embedding_std or width**-0.5)
    vectors = recurrent.embedding(languages.sources.size, width, kernel_init=drawn)
    if weighted:
        vectors = vectors._replace(apply=lambda params, weights: weights @ params["kernel"])
    dropped = recurrent.step_dropout(width, dropout, next(keys))
    read: list[Any] = []
    context = width
    for _ in range(config.layers):
        both = [make_cell(config.cell, context, size) for _ in range(2)]
        read.append(recurrent.bidirectional(*both))
        context = recurrent.output_shape(read[-1])[-1]
        read.append(recurrent.step_dropout(context, dropout, next(keys)))
    if config.direct:
        read = [recurrent.dense_connection(recurrent.stack(*read))]
        context += width
    longest = max(languages.longest_source, languages.longest_target) if key is None else 0

    def pile(layers: int, inputs: int) -> recurrent.Cell:
        """Return layers of the decoder, each followed by dropout."""
        parts, features = [], inputs
        for _ in range(layers):
            parts.append(make_cell(config.cell, features, size, causal=longest))
            features = recurrent.output_shape(parts[-1])[-1]
            parts.append(recurrent.step_dropout(features, dropout, next(keys)))
        return recurrent.stack(*parts, input_shape=(inputs,))

    asking = pile(1, width) if config.query == "first" else None
    inputs = width if asking is None else recurrent.output_shape(asking)[-1]
    cell = pile(config.layers - (asking is not None), inputs + context)
    attend = make_attention(config, recurrent.output_shape(asking or cell)[-1], context)
    decoder = recurrent.decoder(
        cell, attend, languages.targets.size, query=asking, embedding_init=drawn
    )
    shape = (languages.sources.size,) if weighted else ()
    encoder = recurrent.stack(vectors, dropped, *read, input_shape=shape)
    return recurrent.encoder_decoder(encoder, decoder)


def make_attention(config: Any, asked: int, context: int) -> Attention:
    """Return the attention of a Config, from queries of size ``asked``."""
    if config.attention == "additive":
        return recurrent.additive_attention(asked, context, config.hidden_size)
    if config.attention == "multiplicative":
        return recurrent.multiplicative_attention(asked, context)
    return recurrent.last_context(asked, context)


def parts_of(splits: dict[str, Any]) -> tuple[Languages, dict[str, dict[str, np.ndarray]]]:
    """Return the vocabularies of splits of pairs (source, target), and the splits as arrays.

    Raises:
      UserError: where a split has no pair.
    """
    every = [pair for pairs in splits.values() for pair in pairs]
    sources, targets = zip(*every, strict=True) if every else ((), ())
    languages = Languages(
        vocabulary_of(sources),
        vocabulary_of(targets),
        1 + max(map(len, sources), default=0),
        1 + max(map(len, targets), default=0),
    )
    return languages, {name: arrays_of(pairs, languages) for name, pairs in splits.items()}


def arrays_of(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]], languages: Languages
) -> dict[str, np.ndarray]:
    """Return pairs (source, target) as the data of a task: ids ``[N, S]``, ``[N, T]``, and lengths.

    A source with several targets, all of which are right, counts once: ``"counts"`` marks its first
    pair. ``"distinct"`` marks pairs that did not occur before, of which one at most is what a
    network writes, and ``"shortest"`` those of them whose target does not begin with another target
    of the source: of these, one at most is what it begins with.

    Raises:
      UserError: where there is no pair.
    """
    if not pairs:
        raise UserError("The data is too small: one of its splits has no example.")
    sources, targets = zip(*pairs, strict=True)
    read, read_lengths = padded(sources, languages.sources, languages.longest_source)
    write, write_lengths = padded(targets, languages.targets, languages.longest_target)
    first, distinct, shortest = marks(pairs)
    return {
        "sources": read,
        "sources_lengths": read_lengths,
        "targets": write,
        "targets_lengths": write_lengths,
        "counts": first,
        "distinct": distinct,
        "shortest": shortest,
    }


def marks(
    pairs: Sequence[tuple[Sequence[str], Sequence[str]]],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return which pairs are the first of their source, distinct, and with its shortest targets.

    Example:
      >>> [marks.astype(int).tolist() for marks in marks([("a", "xy"), ("a", "x"), ("a", "x")])]
      [[1, 0, 0], [1, 1, 0], [0, 1, 0]]
    """
    targets: dict[tuple[str, ...], dict[tuple[str, ...], None]] = {}
    first, distinct, shortest = [], [], []
    for source, target in pairs:
        known = targets.setdefault(tuple(source), {})
        first.append(not known)
        distinct.append(tuple(target) not in known)
        known[tuple(target)] = None
    for (source, target), new in zip(pairs, distinct, strict=True):
        others = targets[tuple(source)]
        begins = any(tuple(target[:k]) in others for k in range(len(target)))
        shortest.append(new and not begins)
    return np.array(first), np.array(distinct), np.array(shortest)


def buckets_of(data: dict[str, dict[str, np.ndarray]]) -> Buckets:
    """Choose to which lengths of the targets batches are cut, and how much of the sources is kept.

    The limits leave the least padding in training, and there is one more where other splits have
    longer targets. Sources are as long as any in the bucket or in those before it.
    """
    longest = data["train"]["targets"].shape[1]
    limits = bucket_sizes(data["train"]["targets_lengths"], SIZES)
    limits = limits if limits[-1] == longest else (*limits, longest)
    kept = np.zeros(len(limits), int)
    for arrays in data.values():
        place = np.searchsorted(limits, arrays["targets_lengths"])
        np.maximum.at(kept, place, arrays["sources_lengths"])
    sources = np.maximum.accumulate(kept)
    sources[-1] = data["train"]["sources"].shape[1]
    sizes = {"sources": tuple(map(int, sources)), "targets": limits}
    return Buckets("targets_lengths", limits, sizes)


def logits_of(network: EncoderDecoder, params: Any, batch: Any) -> Array:
    """Return what the decoder expects of the words of the targets ``[T, B, V]``, one by one."""
    memory, state = encoded(network, params, batch["sources"], batch["sources_lengths"])
    before = recurrent.shift_right(batch["targets"].swapaxes(0, 1), END)
    return network.sequence(params, memory, state, before)[1]


def encoded(network: EncoderDecoder, params: Any, sources: Array, lengths: Array) -> Any:
    """Return the memory and the first state of a decoder, from ids ``[B, S]`` or their weights."""
    steps = jnp.arange(sources.shape[1])[:, None]
    return network.encode(params, sources.swapaxes(0, 1), steps < lengths)


def metrics(logits: Array, batch: Any, ends: bool = True) -> Metrics:
    """Return the cost of a word, and the share of the sources that are translated exactly.

    A sequence is exact if each of its words, its end included, is the likeliest after the words
    before it: that is what greedy decoding writes, so it need not be run. Without ends, it is exact
    if what greedy decoding writes begins with it. A source with several targets counts once, and is
    right if any of them is exact.

    Args:
      logits: ``[T, B, V]``.
      batch: of the data.
      ends: whether the end is a word that must be predicted.
    """
    targets = batch["targets"].swapaxes(0, 1)
    steps = jnp.arange(len(targets))[:, None]
    real = (steps < batch["targets_lengths"] - (not ends)) & batch["mask"]
    right = (jnp.argmax(logits, -1) == targets) & ~jnp.isnan(logits).any(-1)
    once = batch["distinct" if ends else "shortest"]  # of several that are exact, one counts
    exact = (right | ~real).all(0) & once & batch["mask"]
    counts = batch["counts"] & batch["mask"]
    return {
        "loss": losses.cross_entropy(logits, targets, real),
        "exact": Average(exact.sum(dtype=jnp.float32), counts.sum(dtype=jnp.float32)),
    }


class Written(NamedTuple):
    """Hold what a network writes: words of each source, and the log of their probability."""

    words: list[list[str]]
    scores: np.ndarray


def write(
    network: EncoderDecoder,
    params: Any,
    languages: Languages,
    sources: np.ndarray,
    lengths: np.ndarray,
    *,
    beam: int,
    longest: int,
) -> Written:
    """Translate ids ``[N, S]`` by beam search; with a beam of 1 it is greedy decoding."""

    @jax.jit
    def decode(params: Any, sources: Array, lengths: Array) -> Any:
        memory, state = encoded(network, params, sources, lengths)
        first = jnp.full(len(sources), END, jnp.int32)
        step = partial(network.step, params, memory)
        if beam == 1:
            found = decoding.greedy(step, state, first, longest, stop_token=END)
            return found.tokens.swapaxes(0, 1), found.log_probs.sum(0)
        beams = decoding.beam_search(
            step, state, first, beam_size=beam, max_length=longest, stop_token=END
        )
        return beams.sequences[:, 0], beams.scores[:, 0]

    words, scores = [], []
    together = max(1, TOGETHER // beam)
    for start in range(0, len(sources), together):
        part = slice(start, start + together)
        missing = max(0, start + together - len(sources)) if len(sources) > together else 0
        rows = np.pad(sources[part], ((0, missing), (0, 0)))  # one shape, one compilation
        found, score = jax.device_get(
            decode(params, rows, np.pad(lengths[part], (0, missing), constant_values=1))
        )
        kept = slice(0, len(rows) - missing)
        words += [languages.targets.read(row) for row in found[kept].tolist()]
        scores.append(score[kept])
    return Written(words, np.concatenate(scores))


def ids_of(words: Sequence[str], languages: Languages, flag: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one sentence of a user as ids ``[1, S]`` and its length.

    Raises:
      UserError: where it is empty, too long, or has words that the data does not have.
    """
    unknown = sorted({*words} - {*languages.sources.words})
    if unknown or not words:
        known = ", ".join(languages.sources.words[:NAMED])
        if len(languages.sources.words) > NAMED:
            known += f" and {len(languages.sources.words) - NAMED} more"
        got = ", ".join(map(repr, unknown)) or "nothing"
        raise UserError(f"{flag}: expected some of {known}; got {got}.")
    if len(words) >= languages.longest_source:
        raise UserError(
            f"{flag}: expected at most {languages.longest_source - 1} of them, as the longest in "
            f"the data has, got {len(words)}."
        )
    return padded([words], languages.sources, languages.longest_source)

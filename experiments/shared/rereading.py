"""Say what a text costs a trained language model: cold or warm, learning as it reads, or as a team.

The last tenth of a text is what others call its validation split. Here its first half chooses and
its second half is the test, so both are given, and the whole.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

import recurrent
from experiments.data.text import Text, load_text
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.runs import Command, Run, members_of
from experiments.shared.evaluations import leave_evaluation
from experiments.shared.language import model_of
from recurrent import losses
from recurrent.losses import Average
from recurrent.training import dynamic
from recurrent.training.tbptt import evaluate_streams

STREAMS, WINDOW = 32, 256
LEARNT = 20  # characters between two updates of dynamic evaluation
SQUARED = 256, 32  # window and streams of the gradients whose squares are taken
RATES = (3e-6, 1e-5, 3e-5, 1e-4)
DECAYS = (1e-4, 1e-3, 1e-2)
PARTS = ("valid", "test")
NAMES = {
    "carried": "the state carried along",
    "cold": f"windows of {WINDOW} at most, each from a cold start",
    "dynamic": "the state carried along, learning from what was read",
}
Found = dict[str, float]  # nats a character, of valid, test and both


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Hold the flags of ``./launch.sh evaluate``."""

    dynamic: bool = option(
        False, "go on learning from what was read, with rates chosen on the validation text"
    )
    ensemble: bool = option(
        False, "take the mean of the probabilities of all members of a sweep with --keep_all"
    )


def evaluate(run: Run, flags: Evaluate) -> Iterator[str]:
    """Write what a character of each part of the last tenth costs, and leave it in a file.

    Raises:
      UserError: for both flags, and as `members_of` does.
    """
    if flags.dynamic and flags.ensemble:
        raise UserError("--dynamic: expected it without --ensemble, whose members do not learn.")
    runs = members_of(run) if flags.ensemble else [run]
    text = load_text(run.config.data, run.config.text)
    if flags.dynamic:
        chosen, costs = learning(run, text)
        found: dict[str, Any] = {"dynamic": costs, **chosen}
        yield "rate {rate:g} and decay {decay:g}, chosen on the validation text\n".format(**chosen)
        yield from at_an_edge(**chosen)
    else:
        models = [(model_of(each.config, len(text.characters)), each.kept) for each in runs]
        found = {
            "carried": of_parts(text, cost(models)),
            "cold": of_parts(text, cost(models, cold=True)),
            "members": len(models),
        }
    kind = "-dynamic" if flags.dynamic else "-ensemble" if flags.ensemble else ""
    leave_evaluation(run, f"evaluation{kind}", flat(found))
    yield "\n".join(lines(found))


def of_parts(text: Text, measure: Callable[[Array], Average]) -> Found:
    """Measure both halves of the last tenth; the whole is their mean, character by character."""
    parts = {name: jax.device_get(measure(jnp.asarray(getattr(text, name)))) for name in PARTS}
    totals, weights = (sum(float(part[k]) for part in parts.values()) for k in (0, 1))
    return {name: float(part.mean) for name, part in parts.items()} | {"both": totals / weights}


def cost(
    models: Sequence[tuple[recurrent.Cell, Any]], *, cold: bool = False
) -> Callable[[Array], Average]:
    """Return what says how much tokens ``[N]`` cost the mean of the probabilities of models.

    How many streams they are read as, side by side, `streams_of` says; sequences of one length are
    compiled for once.

    Args:
      models: networks with their params.
      cold: whether each `WINDOW` begins anew, and not with the state after the one before.
    """
    params = [own for _, own in models]

    def start(params: Any, streams: int) -> Any:
        return [m.initial_state(p, (streams,)) for (m, _), p in zip(models, params, strict=True)]

    def measure(params: Any, batch: Any, carry: Any) -> Any:
        carry = start(params, batch["inputs"].shape[1]) if cold else carry
        read = [
            recurrent.unroll(model, own, batch["inputs"], state)
            for (model, _), own, state in zip(models, params, carry, strict=True)
        ]
        log_p = jnp.stack([jax.nn.log_softmax(logits) for _, logits in read])
        mean = jax.nn.logsumexp(log_p, axis=0)  # cross-entropy divides by the number of members
        return {"loss": losses.cross_entropy(mean, batch["targets"], batch["mask"])}, [
            state for state, _ in read
        ]

    @jax.jit
    def whole(params: Any, tokens: Array) -> Average:
        found = evaluate_streams(
            measure, params, tokens, start, streams=streams_of(len(tokens)), window=WINDOW
        )
        return found["loss"]

    return lambda tokens: whole(params, tokens)


def streams_of(tokens: int) -> int:
    """Return as how many streams a text is read: each begins cold, so none is short.

    Example:
      >>> streams_of(50_000), streams_of(1000), streams_of(2)
      (32, 3, 1)
    """
    return max(1, min(STREAMS, tokens // WINDOW))


def learning(run: Run, text: Text) -> tuple[dict[str, float], Found]:
    """Return the rate and decay that do best on the validation text, and the costs with them."""
    model = model_of(run.config, len(text.characters))

    def start(params: Any, streams: int) -> Any:
        return model.initial_state(params, (streams,))

    def loss(params: Any, batch: Any, carry: Any) -> Any:
        carry, logits = recurrent.unroll(model, params, batch["inputs"], carry)
        average = losses.cross_entropy(logits, batch["targets"], batch["mask"])
        return average.mean, ({"loss": average}, carry)

    @jax.jit
    def squares(params: Any, tokens: Array) -> Any:
        window, streams = SQUARED
        return dynamic.mean_squares(loss, params, tokens, start, window=window, streams=streams)

    @jax.jit
    def measure(params: Any, squares: Any, tokens: Array, rate: Any, decay: Any) -> Average:
        rule = dynamic.towards(params, squares, rate, decay)
        found = dynamic.dynamic_evaluation(loss, params, tokens, start, rule, window=LEARNT)
        return found["loss"]

    sizes = squares(run.kept, jnp.asarray(text.train))
    valid = jnp.asarray(text.valid)
    tried = {
        (rate, decay): float(measure(run.kept, sizes, valid, rate, decay).mean)
        for rate in RATES
        for decay in DECAYS
    }
    rate, decay = min(tried, key=lambda pair: np.nan_to_num(tried[pair], nan=np.inf))
    costs = of_parts(text, lambda tokens: measure(run.kept, sizes, tokens, rate, decay))
    return {"rate": rate, "decay": decay}, costs


def at_an_edge(rate: float, decay: float) -> Iterator[str]:
    """Say which of the chosen numbers is the smallest or largest of those tried."""
    for name, chosen, tried in (("rate", rate, RATES), ("decay", decay, DECAYS)):
        if chosen in (min(tried), max(tried)):
            which = "smallest" if chosen == min(tried) else "largest"
            yield f"this {name} is the {which} of those tried: others may do better\n"


def flat(found: dict[str, Any]) -> dict[str, Any]:
    """Return nested numbers under names such as ``carried_both``."""
    plain = {}
    for name, value in found.items():
        inner = value.items() if isinstance(value, dict) else [("", value)]
        plain |= {f"{name}_{part}" if part else name: number for part, number in inner}
    return plain


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Write the costs of each way of reading."""
    for name, costs in found.items():
        if name in NAMES:
            words = (
                f"valid {costs['valid']:.4f}, test {costs['test']:.4f}, both {costs['both']:.4f}"
            )
            yield f"{words} nats a character: {NAMES[name]}"


evaluate_command = Command(Evaluate, evaluate, "say what a text costs it, cold, warm or learning")

"""How well does a recurrent network guess the next character of a text?

Command: ./launch.sh char_lm [--data=shakespeare] [--text=FILE] [--cell=gru] [--layers=2]
         ./launch.sh sample RUN_DIRECTORY --prompt="Once"
         ./launch.sh evaluate RUN_DIRECTORY [--dynamic]
         ./launch.sh explain RUN_DIRECTORY --text="To be, or not to b" [--character=e]
"""

import dataclasses
from functools import partial
from typing import Any

import jax.numpy as jnp

import recurrent
from experiments.data.text import TEXTS, load_text
from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.program import Program
from experiments.shared.explain_text import explain_text
from experiments.shared.language import BITS, LOSS, LanguageConfig, metrics, model_of, trained_on
from experiments.shared.rereading import evaluate_command, streams_of
from experiments.shared.tasks import tbptt_task
from experiments.shared.writing import exhibits, sample_command
from recurrent import losses
from recurrent.training import tbptt
from recurrent.training.task import HParams


@dataclasses.dataclass(frozen=True)
class Config(LanguageConfig):
    """Hold the fields of this experiment."""

    data: str = option("pydoc", "the text: Python's own help, or tiny Shakespeare", choices=TEXTS)
    text: str = option(
        "",
        "a UTF-8 file to read instead; a new line is one character, whatever the file has for it",
        file=True,
    )
    epochs: int = 5
    learning_rate: float = 3e-3
    warmup_epochs: float = 0.2
    steps_per_call: int = 50


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    text = load_text(config.data, config.text)
    steps_per_epoch = tbptt.steps_per_epoch(len(text.train), config.batch_size, config.window)
    shortest = min(len(text.valid), len(text.test))
    if not steps_per_epoch or shortest < 2:
        raise UserError(
            f"The text has {len(text.train)} characters to train on, fewer than "
            f"{config.batch_size} streams of {config.window}: choose a longer one, or a smaller "
            "--batch_size or --window."
        )
    model = model_of(config, len(text.characters))

    def measure(params: Any, batch: Any, carry: Any, hparams: HParams) -> Any:
        carry, logits = recurrent.unroll(model, params, batch["inputs"], carry)
        return metrics(losses.cross_entropy(logits, batch["targets"], batch["mask"])), carry

    task = tbptt_task(
        config,
        model.init,
        lambda params, streams: model.initial_state(params, (streams,)),
        partial(trained_on, config, len(text.characters)),
        measure,
        tokens=len(text.train),
        evaluation_streams=streams_of(shortest),
    )
    parts = {"train": text.train, "valid": text.valid, "test": text.test}
    return Program(
        task=task,
        data={name: {"tokens": jnp.asarray(part)} for name, part in parts.items()},
        evaluations=config.epochs,
        steps_per_evaluation=steps_per_epoch,
        select=LOSS,
        report=BITS,
        exhibits=lambda finished: exhibits(model, text, finished),
    )


commands = {"sample": sample_command, "evaluate": evaluate_command, "explain": explain_text}

"""What keeps a recurrent network from overfitting few examples, and by how much does it help?

Each remedy is a strength that is traced, and 0 for none, so one program trains every remedy alone,
all of them together, and the network that has none. An average of weights needs a second program.

Command: ./launch.sh sweep regularization --search=alone --keep_all --data=mnist
             --sweep=dropout=0.5 --sweep=l1=1e-4 --sweep=early_stopping=true --sweep=seed=0:5
         ./launch.sh regularization [--data=shakespeare] [--text=FILE] [--weight_drop=0.5]
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

import recurrent
from experiments.data.images import DATASETS
from experiments.data.text import TEXTS
from experiments.harness.config import option
from experiments.harness.program import Program
from experiments.shared.cell_flag import cell_option, make_cell
from experiments.shared.classification import LOSS
from experiments.shared.few_examples import Job, job_of
from experiments.shared.remedies import Network, answers, check_recurrent, init, small_weights
from experiments.shared.tasks import MinibatchConfig, minibatch_program
from recurrent.training.task import HParams, Metrics

EPOCHS = {"images": 40, "words": 20}


def share(what: str) -> Any:
    """Declare a share that is dropped."""
    return option(0.0, f"share of {what}", traced=True, minimum=0, below=1)


@dataclasses.dataclass(frozen=True)
class Config(MinibatchConfig):
    """Hold the fields of this experiment."""

    data: str = option(
        "digits",
        "images, which are read row by row and named, or a text, of whose words each next one is "
        "predicted",
        choices=(*DATASETS, *TEXTS),
    )
    text: str = option("", "a UTF-8 file to read words from instead", file=True)
    examples: int = option(
        0, "images or words to train on; 0 takes 500 or 16,000", minimum=0, maximum=10**8
    )
    split_seed: int = option(0, "decides which images are taken and held out", minimum=0)
    cell: str = cell_option("lstm", "; it must not look ahead, and have recurrent weights")
    hidden_size: int = option(
        64, "H, of the hidden state, and of the vector of a word", minimum=1, maximum=10**5
    )
    dropout: float = share("inputs and outputs of the cell dropped, anew at each step")
    variational: float = share("these dropped, the same ones at all steps of a sequence")
    recurrent_dropout: float = share("units whose state no unit reads, throughout a batch")
    weight_drop: float = share("recurrent weights dropped, throughout a batch")
    embedding_drop: float = share("words, or columns of images, not seen throughout a batch")
    early_stopping: bool = option(
        False,
        "whether the weights of the best evaluation are kept, by the validation loss, and not "
        "those of the last one",
        traced=True,
    )
    epochs: int = option(
        0, "passes over the examples; 0 takes 40 for images and 20 for words", minimum=0
    )
    batch_size: int = 25
    learning_rate: float = 3e-3


def program(config: Config) -> Program:
    """Return the training run that ``config`` describes."""
    job = job_of(config)
    network = network_of(config, job)

    def loss(params: Any, batch: Any, key: Array, hparams: HParams) -> tuple[Array, Metrics]:
        found = job.judge(answers(network, job, params, batch, hparams, key), batch)
        return found["loss"].mean, found

    def measure(params: Any, batch: Any, hparams: HParams) -> Metrics:
        found = job.judge(answers(network, job, params, batch, hparams, None), batch)
        return found | {"small": small_weights(params)}

    made = minibatch_program(
        config,
        job.data,
        lambda key: init(network, key),
        measure,
        LOSS,
        loss=loss,
        report=job.report,
        epochs=config.epochs or EPOCHS["images" if job.features else "words"],
    )
    return made._replace(keeps_last=lambda hparams: jnp.logical_not(hparams["early_stopping"]))


def network_of(config: Config, job: Job) -> Network:
    """Return the network for a job.

    Raises:
      UserError: for a cell that looks ahead, or has no recurrent weights.
    """
    width = job.features or config.hidden_size
    cell = make_cell(config.cell, width, config.hidden_size, causal=job.steps)
    check_recurrent(config.cell, cell)
    vectors = recurrent.embedding(job.classes, width, kernel_init=jax.nn.initializers.normal(1.0))
    size = recurrent.output_shape(cell)[-1]
    return Network(None if job.features else vectors, cell, recurrent.dense(size, job.classes))

"""Read the digits in a picture by a trained network: ``./launch.sh predict RUN --image=FILE``."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

from experiments.harness.config import option
from experiments.harness.errors import UserError
from experiments.harness.runs import Command, Run
from experiments.shared import digit_strips, transcribing
from experiments.shared.photos import read_photo
from experiments.shared.transcribing import Transcriber
from experiments.shared.transcripts import spelt

INK_HEIGHT = 21  # of a line of digits in a strip


@dataclasses.dataclass(frozen=True)
class Predict:
    """Hold the flags of ``./launch.sh predict``."""

    image: str = option("", "a picture of one line of digits, in any format that Pillow reads")
    beam: int = option(1, "prefixes kept at each frame; 1 is greedy", minimum=1, maximum=1000)


def predict_command(model_of: Callable[[Any], Transcriber]) -> Command:
    """Return the command, for an experiment whose network is ``model_of(config)``."""

    def predict(run: Run, flags: Predict) -> Iterator[str]:
        if not flags.image:
            raise UserError("predict: expected --image=FILE.")
        photo = read_photo(
            flags.image,
            "--image: ",
            height=digit_strips.HEIGHT,
            ink_height=INK_HEIGHT,
            margin=digit_strips.MARGIN,
        )
        yield from (f"{note}\n" for note in photo.notes)
        found = transcribing.read_one(model_of(run.config), run.kept, photo.strip, flags.beam)
        yield f"{spelt(found.classes) or 'no digit'}  (probability {found.probability:.4f})"

    return Command(Predict, predict, "read the digits in a picture")

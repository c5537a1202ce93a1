"""Write a file with an experiment of the user's own, from which to begin."""

import shlex
from pathlib import Path

from experiments.harness.errors import UserError
from experiments.harness.files import path_of

TEMPLATE = Path(__file__).resolve().parents[1] / "shared" / "template.py"


def write_experiment(path: str) -> str:
    """Write the file, which runs at once, and return what can be done with it.

    Raises:
      UserError: where the file is there already, cannot be written or is no Python file.
    """
    file = path_of(path, "new: ")
    if file.suffix != ".py":
        raise UserError(f"new: expected the name of a Python file, such as idea.py, got {path!r}.")
    text = TEMPLATE.read_text(encoding="utf-8").replace(" idea.py", f" {path}")
    text = text.replace("runs/idea/", f"{file.parent / 'runs' / file.stem}/")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "x", encoding="utf-8") as stream:  # never over something that is there
            stream.write(text)
    except FileExistsError:
        raise UserError(f"new: {path} is there already; choose another name.") from None
    except OSError as error:
        raise UserError(f"new: {path} cannot be written: {error.strerror}.") from error
    word = shlex.quote(path)
    return f"{path} is written. Now:\n./launch.sh {word}\n./launch.sh {word} --help"

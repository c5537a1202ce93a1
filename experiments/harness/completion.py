"""Write a script by which a shell completes the launcher's words and flags."""

from collections.abc import Sequence

from experiments.harness import catalogue
from experiments.harness.config import options
from experiments.harness.errors import UserError
from experiments.harness.naming import Launch
from experiments.harness.processes import Hardware

SHELLS = ("bash", "zsh")
SCRIPT = """\
_recurrent() {{
  local word=${{COMP_WORDS[1]}} now=${{COMP_WORDS[COMP_CWORD]}} words
  [[ $word == sweep ]] && ((COMP_CWORD > 2)) && word=${{COMP_WORDS[2]}}
  if ((COMP_CWORD == 1)) || [[ ${{COMP_WORDS[1]}} == sweep && $COMP_CWORD == 2 ]]; then
    words="{words}"
  else
    case $word in
{cases}
      *) words="" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$now") $(compgen -f -- "$now"))
  [[ ${{COMPREPLY[0]-}} != --*= ]] || compopt -o nospace 2>/dev/null
}}
complete -F _recurrent launch.sh ./launch.sh
"""


def script(arguments: Sequence[str], words: Sequence[str]) -> str:
    """Return the script; flags are those of the experiments of this package.

    Raises:
      UserError: for another shell.
    """
    if len(arguments) != 1 or arguments[0] not in SHELLS:
        raise UserError(
            'completion: expected bash or zsh, as in eval "$(./launch.sh completion bash)".'
        )
    names = [*catalogue.experiments()]
    cases = "\n".join(f'      {name}) words="{flags_of(name)}" ;;' for name in names)
    head = "autoload -U +X bashcompinit && bashcompinit\n" if arguments[0] == "zsh" else ""
    return head + SCRIPT.format(words=" ".join([*names, *words]), cases=cases)


def flags_of(name: str) -> str:
    """Return the flags of an experiment, as they are written."""
    classes = (catalogue.load(name).module.Config, Launch, Hardware)
    return " ".join(f"--{field}=" for cls in classes for field in options(cls))

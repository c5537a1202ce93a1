"""Raise the one exception that the launcher turns into a sentence, and help to word it."""

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Explain a mistake in one sentence: what was expected, what came, what to do.

    The launcher prints it without a traceback and exits with status 2. Parsers of
    untrusted files raise nothing else.
    """


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean "lstm"?`` where a known word is close, else nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f' Did you mean "{near[0]}"?' if near else ""


def have_changed(names: Sequence[str]) -> str:
    """Return a clause about files.

    Example:
      >>> have_changed(["a.py"]), have_changed(["a.py", "b.py"])
      ('a.py has changed', 'a.py, b.py have changed')
    """
    return f"{', '.join(names)} {'has' if len(names) == 1 else 'have'} changed"


def unknown(kind: str, word: str, known: Iterable[str]) -> str:
    """Word the sentence for a word that is none of the known ones."""
    known = list(known)
    sentence = f"There is no {kind} {word!r}; choose from {', '.join(known)}."
    return sentence + did_you_mean(word, known)

"""The one exception a user sees: a sentence saying what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Bad input, described in one sentence that names it and says what to do.

    The command line prints it without a traceback and exits with code 2.
    """


def unknown(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Builds the error for a name that is not among the known ones, with the nearest of them."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    some = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    hint = f"did you mean {near[0]!r}?" if near else f"known: {some or 'none'}."
    return UserError(f"Unknown {kind} {name!r}; {hint}")

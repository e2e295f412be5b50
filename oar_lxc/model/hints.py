"""What somebody may have meant who wrote a word that there is not."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from oar_lxc.errors import SpecError

# What people write for a key, from other programs' habits.
_MEANT = {
    **dict.fromkeys(("count", "n", "number", "num", "instances"), "total"),
    **dict.fromkeys(("nodes", "pernode"), "per_node"),
    **dict.fromkeys(("cpu", "cpus", "ncpus"), "cores"),
    **dict.fromkeys(("mem", "ram"), "memory"),
    **dict.fromkeys(("env", "variables"), "environment"),
    **dict.fromkeys(("volumes", "binds"), "mounts"),
    **dict.fromkeys(("script", "setup"), "provision"),
    **dict.fromkeys(("group", "containers", "specs"), "groups"),
}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return which of the known words may have been meant by another; empty where none is near."""
    from difflib import get_close_matches  # which nobody has to load who makes no mistake

    return next(iter(get_close_matches(word, known, 1)), "")


def refuse_unknown(where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse what is no key, and say which one was meant.

    Args:
        where: what the keys are of, in front of the sentence.
        given: names of keys.
        known: those that there are.

    Raises:
        SpecError: one is not known.
    """
    for key in given:
        if key not in known:
            meant = _MEANT.get(key, "")
            near = meant if meant in known else nearest(key, known)
            hint = f"did you mean {near}?" if near else f"known are {', '.join(known)}"
            raise SpecError(f"{where}: unknown key {key!r}; {hint}")

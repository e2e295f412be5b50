"""Guess which known word a user meant by an unknown one."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from oar_lxc.errors import SpecError

# Words that other programs use, and our keys for the same.
_MEANT = {
    **dict.fromkeys(("count", "n", "number", "num", "instances"), "total"),
    **dict.fromkeys(("nodes", "pernode"), "per_node"),
    **dict.fromkeys(("cpu", "cpus", "ncpus"), "cores"),
    **dict.fromkeys(("mem", "ram"), "memory"),
    **dict.fromkeys(("env", "variables"), "environment"),
    **dict.fromkeys(("volumes", "binds"), "mounts"),
    **dict.fromkeys(("script", "setup"), "provision"),
    **dict.fromkeys(("latency", "lat"), "delay"),
    **dict.fromkeys(("bandwidth", "bw", "throughput"), "rate"),
    **dict.fromkeys(("src", "source"), "from"),
    **dict.fromkeys(("dst", "target", "destination"), "to"),
    **dict.fromkeys(("cidr", "address"), "subnet"),
    **dict.fromkeys(("group", "containers", "specs"), "groups"),
}


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word that is most like another; empty if none is like it."""
    from difflib import get_close_matches  # loaded only after a mistake

    return next(iter(get_close_matches(word, known, 1)), "")


def hint(key: str, known: Collection[str], prefix: str = "") -> str:
    """Return what to write for an unknown key: the key that was probably meant, or all that exist.

    Args:
        key: the unknown key.
        known: all keys that exist.
        prefix: what comes before the key that was meant, such as the table in which it is.
    """
    meant = _MEANT.get(key, "")
    near = meant if meant in known else nearest(key, known)
    return f"did you mean {prefix}{near}?" if near else f"known: {', '.join(known)}"


def refuse_unknown(where: str, given: Iterable[str], known: Collection[str]) -> None:
    """Refuse an unknown key, and name the key that was probably meant.

    Args:
        where: the file or class that has the keys; the sentence starts with it.
        given: the user's keys.
        known: all keys that exist.

    Raises:
        SpecError: a key is not known.
    """
    for key in given:
        if key not in known:
            raise SpecError(f"{where}: unknown key {key!r}; {hint(key, known)}")

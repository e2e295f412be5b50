"""Translate the error messages of other programs into a reason and what to do."""

from __future__ import annotations

import os
import re
import shutil
from itertools import takewhile

from oar_lxc.errors import CommandError, CommandTimeoutError, ImageError

_ENDS_EARLY = re.compile(
    r"unexpected end|premature end|unexpectedly|incomplete|truncated", re.IGNORECASE
)
_FULL = re.compile(r"No space left on device|Disk quota exceeded")
# tar's, such as `tar: ./etc/shadow: Cannot open: Permission denied`.
_OF_A_FILE = re.compile(
    r"(?:[a-z0-9-]+: )?(?P<file>.+?): (?:[A-Z][a-z]+ [a-z ]+: )?(?P<why>[A-Z][\w ,/-]+)"
)
_CHANGED = re.compile(
    r"tar: (?P<file>.+): (?:file changed as we read it|File removed before we read it)"
)
# Messages of apt and mmdebstrap, and their meaning.
_NO_PACKAGE = (
    "there is no package {it} in the sources of this release: look at its name, or `sources`"
)
_NO_WAY = (
    "packages cannot be fetched: {it} {why}; this machine needs the network, or the recipe "
    "`sources` of a mirror"
)
_PACKAGES = (
    (r"Unable to locate package (?P<it>\S+)", _NO_PACKAGE),
    (r"Package '?(?P<it>[^\s']+)'? has no installation candidate", _NO_PACKAGE),
    (
        r"unmet dependencies|held broken packages",
        "packages of the recipe do not go together in this release",
    ),
    (
        r"(?:Could not resolve|Temporary failure resolving) '(?P<it>[^']+)'",
        _NO_WAY.replace("{why}", "cannot be resolved"),
    ),
    (
        r"(?:Could not connect to|Cannot initiate the connection to) (?P<it>[^\s:]+)",
        _NO_WAY.replace("{why}", "does not answer"),
    ),
    (
        r"repository '(?P<it>[^']+)' does not have a Release file",
        "there is no such release at {it}: look at `suite` and `sources`",
    ),
    (
        r"NO_PUBKEY|repository '[^']+' is not signed",
        "this machine does not know the keys that its packages are signed with: give a file of "
        "them as `keyring`",
    ),
)
# What mmdebstrap writes before it runs a hook, whose shell lines may be many.
_HOOK = re.compile(r"(?ms)^I: running --\S+-hook in shell: sh -c '.*?' exec \S+$")
_HOOK_RUNS = "I: running a script..."


# Messages of ssh, and of the shell on the node.
_OURS = "oar-lxc: "
_ON_THE_WAY = (
    (r"Could not resolve hostname", "it could not be reached: its name cannot be resolved"),
    (r"Connection refused", "it could not be reached: its ssh server does not run"),
    (r"timed out|No route to host", "it could not be reached: it does not answer"),
    (
        r"Permission denied|Host key verification",
        "it could not be reached: ssh is not let in there",
    ),
    (
        r"oar-lxc: (command )?not found|oar-lxc: No such file",
        "oar-lxc is not installed there: run `oar-lxc setup node` on it",
    ),
)


def no_room(error: CommandError) -> str:
    """Return the system's message if a program found the disk full; else an empty text."""
    match = _FULL.search(error.stderr)
    return match[0] if match else ""


def reason_of(error: CommandError) -> str:
    """Return in one sentence why a program failed."""
    if isinstance(error, CommandTimeoutError):
        return str(error)
    name = error.argv[0].rpartition("/")[2]
    lines = _lines(error.stderr)
    for line in lines:
        if match := _CHANGED.search(line):
            return f"{match['file']} changed while it was read: import it when nobody writes there"
    for line in lines:
        match = _OF_A_FILE.fullmatch(line)
        if match and name == "tar":
            hint = ": let root import it" if "ermission" in match["why"] and os.geteuid() else ""
            return f"{match['file'].removeprefix('./')}: {match['why']}{hint}"
    if error.status < 0:
        return (
            f"{name} was killed by signal {-error.status}: the machine may have too little memory"
        )
    return f"{name} failed{_says(lines)}"


def reason_of_build_error(error: CommandError) -> str:
    """Return in one sentence why mmdebstrap failed."""
    lines = _lines(replace_hooks(error.stderr))
    for form, means in _PACKAGES:
        for line in lines:
            if match := re.search(form, line):
                return means.format(**match.groupdict())
    said = [line for line in lines if not line.startswith(("I:", "W:", "N:"))]
    script = [line for line in said if "command failed: " in line or "setup failed: " in line]
    if script:
        before = reversed(lines[: lines.index(script[0])])
        own = [line for line in takewhile(lambda line: line != _HOOK_RUNS, before) if line in said]
        return f"a script of the recipe failed{_says(own[:1])}"
    # mmdebstrap and apt start each line with a letter; their errors come after many other lines.
    errors = [line[2:].strip() for line in said if line.startswith("E:")]
    return f"the system cannot be built{_says(errors[:1] or said)}"


def replace_hooks(said: str) -> str:
    """Return mmdebstrap's output without the shell lines of hooks, which it repeats."""
    return _HOOK.sub(_HOOK_RUNS, said)


def reason_of_push_error(lines: list[str], *, reached: bool) -> str:
    """Return in one sentence why a node did not take an image.

    Args:
        lines: lines of oar-lxc on the node, of the node's shell, and of ssh.
        reached: whether a command ran on the node.
    """
    ours = [line for line in lines if line.startswith(_OURS)]
    if ours:
        return ours[-1].removeprefix(_OURS)
    for form, means in _ON_THE_WAY:
        if any(re.search(form, line) for line in lines):
            return means
    if not reached:
        return f"it could not be reached{_says(lines) if lines else ''}"
    return f"it failed{_says(lines)}"


def damage_of(error: CommandError) -> str:
    """Return what is wrong with a file that a program cannot unpack."""
    if _ENDS_EARLY.search(error.stderr):
        return "it ends in the middle"
    return f"{error.argv[0].rpartition('/')[2]} cannot unpack it"


def _lines(said: str) -> list[str]:
    lines = [line.strip() for line in said.splitlines()]
    return [line for line in lines if line and "Exiting with failure status" not in line]


def _says(lines: list[str]) -> str:
    return f"; its last words: {lines[-1]}" if lines else ", and does not say why"


def need(program: str, package: str) -> str:
    """Return a program's name.

    Raises:
        ImageError: it is not installed.
    """
    if shutil.which(program) is None:
        way = f"apt-get install {package}"
        if os.geteuid() != 0:
            way = f"ask the administrator for the package {package}"
        raise ImageError(f"{program} is not installed on this machine: {way}")
    return program

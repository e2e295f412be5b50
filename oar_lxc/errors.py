"""Errors of the package: one root class, typed fields, one clear sentence each."""

from __future__ import annotations

from collections.abc import Sequence, Sized

MOST_SHOWN = 3  # containers whose failures are told one by one in an error of many


def printable(text: str, keep: str = "") -> str:
    """Return text without the characters that would control a terminal.

    Root of a container chooses file names and the output of programs there, and is not trusted.

    Args:
        text: the text.
        keep: unprintable characters that stay, such as a newline.
    """
    return "".join(c if c.isprintable() or c in keep else "?" for c in text)


class OarLxcError(Exception):
    """Root of all errors that the package raises on purpose.

    ``str(error)`` is a sentence for the person who has to act on it. Entry points print it after
    the program's name and leave with :attr:`exit_status`.
    """

    exit_status = 1

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle with all fields: errors cross between processes of a pool."""
        return _rebuild, (type(self), self.args, self.__dict__)


def _rebuild(
    kind: type[OarLxcError], args: tuple[object, ...], fields: dict[str, object]
) -> OarLxcError:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(fields)
    return error


class UsageError(OarLxcError):
    """The request is wrong: an argument, a key or a value."""

    exit_status = 2


class JobEnvironmentError(OarLxcError):
    """The environment is not that of an OAR job, or a file that OAR writes is not usable."""


class JobError(OarLxcError):
    """A job cannot be used: it does not exist, is another user's, or does not run."""


class SpecError(UsageError):
    """A spec asks for something that does not exist or does not fit the job."""


class ConfigError(UsageError):
    """A configuration file has an unknown key or a value that is not allowed."""


class ImageError(OarLxcError):
    """An image does not exist, or could not be built."""


class ImageUsageError(UsageError, ImageError):
    """What is written of an image is wrong: its name, or a recipe to build it."""


class NodeNotPreparedError(OarLxcError):
    """Root has not prepared a node for this job, or refused to."""


class TooLateError(OarLxcError):
    """The deadline passed before the work was done."""


class OutputError(OarLxcError):
    """Our standard output cannot be written, as on a full disk.

    Args:
        error: what the system said.
    """

    def __init__(self, error: OSError) -> None:
        super().__init__(f"cannot write to standard output: {error.strerror}")


class ContainerError(OarLxcError):
    """An operation on one container failed.

    Args:
        container: name of the container.
        node: name of its node; empty if unknown.
        reason: what failed, one sentence without the container's name.
        log: the last lines of LXC's log for the container, oldest first.
    """

    def __init__(self, container: str, node: str, reason: str, log: Sequence[str] = ()) -> None:
        self.container = container
        self.node = node
        self.reason = reason
        self.log = tuple(log)
        where = f"container {container} on node {node}" if node else f"container {container}"
        text = f"{where}: {reason}"
        if self.log:
            text += "\n" + "\n".join(f"    {line}" for line in self.log)
        super().__init__(text)


class NodeError(OarLxcError):
    """A node could not be reached, or the work there failed as a whole."""

    def __init__(self, node: str, reason: str) -> None:
        self.node = node
        self.reason = reason
        super().__init__(f"node {node}: {reason}")


class FailuresError(OarLxcError):
    """Some containers or nodes failed; :attr:`failures` lists them with the reasons."""

    head = "failed"

    def __init__(self, failures: Sequence[ContainerError | NodeError]) -> None:
        self.failures = tuple(failures)
        lines = _grouped(self.failures)
        super().__init__(
            f"{self.head}: {lines[0]}" if len(lines) == 1 else "\n".join([f"{self.head}:", *lines])
        )


def _grouped(failures: Sequence[ContainerError | NodeError]) -> list[str]:
    """Return a text for each failure, and one text for all failures with the same reason.

    The first containers have a text each, with the lines of their logs.
    """
    containers = [failure for failure in failures if isinstance(failure, ContainerError)]
    texts = list(dict.fromkeys(str(failure) for failure in containers[:MOST_SHOWN]))
    more: dict[str, dict[str, None]] = {}
    nodes: dict[str, dict[str, None]] = {}
    for one in containers[MOST_SHOWN:]:
        more.setdefault(one.reason, {})[one.container] = None
    for failure in failures:
        if isinstance(failure, NodeError):
            nodes.setdefault(failure.reason, {})[failure.node] = None
    for reason, names in more.items():
        texts.append(f"{len(names)} more container{_s(names)}, {', '.join(names)}: {reason}")
    for reason, names in nodes.items():
        texts.append(f"node{_s(names)} {', '.join(names)}: {reason}")
    return texts


def _s(several: Sized) -> str:
    return "s" if len(several) > 1 else ""


class LaunchError(FailuresError):
    """A launch failed and was undone."""

    head = "launch failed, and nothing of it is left"


class NotReadyError(FailuresError):
    """Containers run, but were not ready in time."""

    head = "not all containers became ready"


class CommandError(OarLxcError):
    """A program ended with a status other than 0.

    Args:
        argv: the program and its arguments.
        status: exit status; negative is the number of the signal that ended it.
        stderr: its standard error.
    """

    def __init__(self, argv: Sequence[str], status: int, stderr: str) -> None:
        self.argv = tuple(argv)
        self.status = status
        self.stderr = stderr
        said = stderr.strip() or "it said nothing"
        super().__init__(f"{' '.join(self.argv)} ended with status {status}: {said}")


class CommandTimeoutError(OarLxcError):
    """A program did not end in time and was killed."""

    def __init__(self, argv: Sequence[str], timeout: float) -> None:
        self.argv = tuple(argv)
        self.timeout = timeout
        super().__init__(f"{' '.join(self.argv)} did not end within {timeout:g} s and was killed")

"""The job this process runs in, as OAR describes it in the environment and the nodefile."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from oar_lxc.errors import JobEnvironmentError, UsageError
from oar_lxc.linux.regular import read_regular
from oar_lxc.model.layout import check_job_id, check_node

# Property → the variables that OAR 2.5 and 3 set for it, the best known first
# (oarexec and the job resource manager set them).
VARIABLES = {
    "id": ("OAR_JOB_ID", "OAR_JOBID"),
    "nodefile": ("OAR_NODEFILE", "OAR_NODE_FILE", "OAR_FILE_NODES"),
    "user": ("OAR_USER", "USER"),
    "name": ("OAR_JOB_NAME",),
    "project": ("OAR_PROJECT_NAME",),
    "walltime": ("OAR_JOB_WALLTIME_SECONDS",),
    "array_id": ("OAR_ARRAY_ID", "OAR_ARRAYID"),
    "array_index": ("OAR_ARRAY_INDEX", "OAR_ARRAYINDEX"),
    "resources": ("OAR_RESOURCE_PROPERTIES_FILE", "OAR_RESOURCE_FILE"),
    "directory": ("OAR_WORKING_DIRECTORY", "OAR_WORKDIR", "OAR_O_WORKDIR"),
}


@dataclass(frozen=True)
class Job:
    """An OAR job.

    Attributes:
        id: OAR's job id.
        user: name of the user that submitted it.
        cores: reserved cores by node, nodes in the order of the nodefile.
        walltime: seconds; 0 if not known.
        name: the job's name; may be empty.
        project: its project.
        array_id: id of the job array it belongs to.
        array_index: its number in the array.
        resources: properties of each reserved resource, as in OAR's resource file.
    """

    id: int
    user: str
    cores: Mapping[str, int]
    walltime: int = 0
    name: str = ""
    project: str = ""
    array_id: int = 0
    array_index: int = 0
    resources: tuple[Mapping[str, str], ...] = field(default=(), repr=False)

    @property
    def nodes(self) -> tuple[str, ...]:
        """Names of the job's nodes, each once, in the order of the nodefile."""
        return tuple(self.cores)

    def variables(self) -> dict[str, str]:
        """Return the variables that tell containers of the job, by OAR's names."""
        found = {
            "OAR_JOB_ID": str(self.id),
            "OAR_USER": self.user,
            "OAR_JOB_NAME": self.name,
            "OAR_PROJECT_NAME": self.project,
            "OAR_JOB_WALLTIME_SECONDS": str(self.walltime or ""),
            "OAR_ARRAY_ID": str(self.array_id or ""),
            "OAR_ARRAY_INDEX": str(self.array_index or ""),
        }
        return {key: value for key, value in found.items() if value and "\n" not in value}

    @classmethod
    def from_environ(cls, environ: Mapping[str, str] | None = None) -> Job:
        """Read the job that this process runs in.

        Args:
            environ: the variables to read; the process's environment by default.

        Raises:
            JobEnvironmentError: this process is not in a job, or one of OAR's files is missing,
                unreadable, empty or damaged; the message names the variable and the file.
        """
        environ = os.environ if environ is None else environ
        id_text = _get(environ, "id")
        if not id_text:
            raise JobEnvironmentError(
                "this is not an OAR job (OAR_JOB_ID is not set): submit it with "
                "`oarsub -S ./jobscripts/lxc_job.py`"
            )
        try:
            job_id = check_job_id(id_text)
        except UsageError as error:
            raise JobEnvironmentError(f"OAR_JOB_ID: {error}") from error
        nodefile = _get(environ, "nodefile")
        if not nodefile:
            raise JobEnvironmentError(
                f"OAR_NODEFILE is not set in job {job_id}: OAR sets it for the job's script, and "
                "for what is started with oarsh"
            )
        resources = _get(environ, "resources")
        return cls(
            id=job_id,
            user=_get(environ, "user"),
            cores=read_nodefile(Path(nodefile)),
            walltime=_number(environ, "walltime"),
            name=_get(environ, "name"),
            project=_get(environ, "project"),
            array_id=_number(environ, "array_id"),
            array_index=_number(environ, "array_index"),
            resources=read_resources(Path(resources)) if resources else (),
        )


def _get(environ: Mapping[str, str], key: str) -> str:
    return next((environ[name] for name in VARIABLES[key] if environ.get(name)), "")


def _number(environ: Mapping[str, str], key: str) -> int:
    text = _get(environ, key)
    if not text:
        return 0
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise JobEnvironmentError(f"{VARIABLES[key][0]} is {text!r}, which is not a number")
    return int(text)


def _lines(path: Path) -> list[str]:
    text = read_regular(path, follow=True).decode("utf-8", "backslashreplace")
    return [line.strip(" \t\r") for line in text.split("\n")]


def read_nodefile(path: Path) -> dict[str, int]:
    """Read a nodefile: one line per reserved core, with its node's name.

    Returns:
        Cores by node, nodes in the order of the file.

    Raises:
        JobEnvironmentError: it is missing, unreadable or empty, or a line is not a host name.
    """
    try:
        lines = _lines(path)
    except OSError as error:
        raise JobEnvironmentError(
            f"OAR_NODEFILE {path} cannot be read: {error.strerror}"
        ) from error
    names: Counter[str] = Counter()
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        try:
            names[check_node(line)] += 1
        except UsageError:
            raise JobEnvironmentError(
                f"OAR_NODEFILE {path}, line {number}: {line[:80]!r} is not a host name"
            ) from None
    if not names:
        raise JobEnvironmentError(f"OAR_NODEFILE {path} names no node")
    return dict(names)


_PROPERTY = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*) = '(.*?)'\s*(?:,|$)")


def read_resources(path: Path) -> tuple[dict[str, str], ...]:
    """Read a resource file: one line per resource, ``key = 'value' , key = 'value'``.

    Raises:
        JobEnvironmentError: it cannot be read, or a line has another form.
    """
    try:
        lines = _lines(path)
    except OSError as error:
        raise JobEnvironmentError(
            f"OAR_RESOURCE_PROPERTIES_FILE {path} cannot be read: {error.strerror}"
        ) from error
    return parse_resources(lines, f"OAR_RESOURCE_PROPERTIES_FILE {path}")


def parse_resources(lines: Iterable[str], origin: str) -> tuple[dict[str, str], ...]:
    """Return the properties of each resource, one per line; see :func:`read_resources`.

    Raises:
        JobEnvironmentError: a line has another form; the message names ``origin``.
    """
    found = []
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        properties, position = {}, 0
        while match := _PROPERTY.match(line, position):
            properties[match[1]] = match[2]
            position = match.end()
        if not properties or line[position:].strip():
            raise JobEnvironmentError(
                f"{origin}, line {number}: {line[:80]!r} is not a list of key = 'value'"
            )
        found.append(properties)
    return tuple(found)

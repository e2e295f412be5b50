"""The job script that users copy: run as a program where no job is, and on fake nodes."""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from oar_lxc.client import session
from oar_lxc.errors import LaunchError, OarLxcError
from oar_lxc.model.job import Job
from oar_lxc.model.plan import make_plan
from oar_lxc.model.scenario import check_scenario, read_scenario
from oar_lxc.model.specfile import read_spec
from tests.unit.fakes.remote import FakeRemote, prepared_nodes

SCRIPT = Path(__file__).parents[2] / "jobscripts/lxc_job.py"
SCRIPTS = sorted(SCRIPT.parent.glob("*.py"))
JOB = Job(42, "alice", {"node1": 1, "node2": 2})


def run(
    environ: dict[str, str], *arguments: str, script: Path = SCRIPT
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(script), *arguments],
        env={"PATH": os.environ["PATH"], **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_it_is_an_example_to_copy(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env python3"
    assert os.access(script, os.X_OK)
    assert len(lines) < 110


# The regular expressions of OAR::Sub::scan_script in OAR 2.5.9; one unknown line, and oarsub
# refuses the submission.
KNOWN = {
    "type": r"^#OAR\s+(-t|--type)\s*(.+)\s*$",
    "name": r"^#OAR\s+(-n|--name)\s*(.+)\s*$",
    "resource": r"^#OAR\s+(-l|--resource)\s*(.+)\s*$",
}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_oarsub_reads_what_it_asks_for(script: Path) -> None:
    found = {}
    for line in script.read_text().splitlines()[1:]:
        if re.match(r"^#OAR\s+", line):
            matches = {key: m[2] for key, rule in KNOWN.items() if (m := re.match(rule, line))}
            assert len(matches) == 1, line
            found.update(matches)
    name = {"lxc_job": "lxc"}.get(script.stem, script.stem)
    assert re.fullmatch(r"nodes=[12]/core=[12],walltime=[0-9:]+", found.pop("resource"))
    assert found == {"type": "lxc", "name": name}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_no_line_is_nearly_one_that_oarsub_reads(script: Path) -> None:
    lines = script.read_text().splitlines()
    assert not [line for line in lines if re.match(r"^\s*#\s+OAR\b|^\s+#OAR\b", line)]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_outside_of_a_job_each_is_one_sentence(script: Path) -> None:
    done = run({}, script=script)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"{script.name}: this is not an OAR job (OAR_JOB_ID is not set)")
    assert done.stderr.count("\n") == 1


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """Return the environment of a job on a node that was not prepared for it."""
    (tmp_path / "nodes").write_text(f"{os.uname().nodename}\n")
    return {
        "OAR_JOB_ID": "2147483647",
        "OAR_NODEFILE": str(tmp_path / "nodes"),
        "OAR_USER": "alice",
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "names no node"),
        (b"node1\n$(reboot)\n", "line 2: '$(reboot)' is not a host name"),
        (b"\xff\xfe\x00\n", "line 1: '\\\\xff\\\\xfe\\x00' is not a host name"),
    ],
)
def test_a_damaged_nodefile_is_one_sentence(
    environ: dict[str, str], content: bytes | None, message: str
) -> None:
    nodefile = Path(environ["OAR_NODEFILE"])
    nodefile.unlink()
    if content is not None:
        nodefile.write_bytes(content)
    done = run(environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"lxc_job.py: OAR_NODEFILE {nodefile}")
    assert done.stderr.endswith(f"{message}\n")
    assert done.stderr.count("\n") == 1


def test_without_a_nodefile_it_is_one_sentence(environ: dict[str, str]) -> None:
    del environ["OAR_NODEFILE"]
    done = run(environ)
    assert done.returncode == 1
    assert done.stderr.startswith("lxc_job.py: OAR_NODEFILE is not set in job 2147483647: OAR")
    assert done.stderr.count("\n") == 1


def test_on_a_node_that_was_not_prepared_it_is_one_sentence(environ: dict[str, str]) -> None:
    done = run(environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not prepared for job 2147483647: submit the job with `-t lxc`" in done.stderr
    assert done.stderr.count("\n") == 1


def test_on_a_machine_that_is_no_node_of_the_job_it_is_one_sentence(
    environ: dict[str, str],
) -> None:
    Path(environ["OAR_NODEFILE"]).write_text("elsewhere\n")
    done = run(environ)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not a node of job 2147483647: jobs of type deploy or cosystem" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--image", "../x"), "image '../x' is not an image name"),
        (("--wait", "sssh"), "wait is 'sssh'; did you mean ssh?"),
        (("--per-node", "0"), "per_node is 0; at least 1 container a node is allowed"),
    ],
)
def test_a_spec_that_cannot_be_is_one_sentence(
    environ: dict[str, str], arguments: tuple[str, ...], message: str
) -> None:
    done = run(environ, *arguments)
    assert done.returncode != 0
    assert done.stderr.startswith(f"lxc_job.py: {message}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("--per-node", "2", "--per-core"),
        ("--per-node", "x"),
        ("--frobnicate",),
    ],
)
def test_a_wrong_option_is_told_with_how_it_is_meant(
    environ: dict[str, str], arguments: tuple[str, ...]
) -> None:
    done = run(environ, *arguments)
    assert done.returncode == 2
    assert "usage: oarsub -S" in done.stderr


@pytest.mark.parametrize("option", ["--per-core", "--per-node=2", "--image=x"])
def test_a_spec_file_takes_no_other_option_for_containers(
    environ: dict[str, str], option: str
) -> None:
    done = run(environ, "--spec", "web.toml", option)
    told = f"--spec takes all from web.toml: leave out {option.partition('=')[0]}"
    assert (done.returncode, done.stderr.splitlines()[-1].partition("error: ")[2]) == (2, told)


def test_where_oar_lxc_is_not_installed_it_is_one_sentence(environ: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(SCRIPT)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == f"lxc_job.py: oar-lxc is not installed on {os.uname().nodename}\n"


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("lxc_job", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def remote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str]
) -> Iterator[FakeRemote]:
    """Let job 42 run on two prepared nodes, of which this is the first."""
    Path(environ["OAR_NODEFILE"]).write_text("node1\nnode2\nnode2\n")
    for name, value in {**environ, "OAR_JOB_ID": "42"}.items():
        monkeypatch.setenv(name, value)
    with prepared_nodes(tmp_path, monkeypatch, JOB) as remote:
        yield remote


def start(script: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["lxc_job.py", "--wait", "running", *arguments])
    status = script.main()
    assert isinstance(status, int)
    return status


def test_a_command_runs_in_every_container_and_its_lines_carry_their_names(
    script: ModuleType,
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = "echo out; echo err >&2"
    assert start(script, monkeypatch, "--per-core", "--", "sh", "-c", line) == 0
    told = capfd.readouterr()
    names = ("vm1", "vm2", "vm3")
    # Those of one node run at the same time, and write in no order.
    lines = [text for text in told.out.splitlines() if "started" not in text]
    assert sorted(lines) == [f"{name}: out" for name in names]
    assert sorted(told.err.splitlines()) == [f"{name}: err" for name in names]
    assert remote.running() == []


def test_the_worst_status_is_the_jobs_and_each_failure_is_told(
    script: ModuleType,
    remote: FakeRemote,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    # The first container to come leaves with 3, the second with 4.
    line = f"mkdir {tmp_path}/first 2>/dev/null && exit 3; exit 4"
    assert start(script, monkeypatch, "--", "sh", "-c", line) == 4
    assert capfd.readouterr().err == "vm1: exit status 3\nvm2: exit status 4\n"


def test_a_command_that_does_not_exist_is_127_and_named(
    script: ModuleType,
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert start(script, monkeypatch, "--", "no-such-command") == 127
    assert "no-such-command: no such command in vm1" in capfd.readouterr().err
    assert remote.running() == []


def test_the_options_of_the_command_are_its_own(
    script: ModuleType,
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert start(script, monkeypatch, "--", "echo", "--image", "x", "--", "-h") == 0
    assert "vm1: --image x -- -h\n" in capfd.readouterr().out


def test_a_line_that_comes_in_parts_is_printed_whole(
    script: ModuleType,
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    line = "printf one; sleep 0.05; printf ' line'; sleep 0.05; echo; printf last"
    assert start(script, monkeypatch, "--", "sh", "-c", line) == 0
    lines = [text for text in capfd.readouterr().out.splitlines() if "started" not in text]
    assert lines == ["vm1: one line", "vm1: last", "vm2: one line", "vm2: last"]


def test_a_failed_launch_is_told_with_container_node_and_log_and_nothing_is_left(
    script: ModuleType, remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote.by_name["node2"].runtime.broken = {"vm2": ["ERROR start - no init"]}
    with pytest.raises(
        LaunchError, match=r"vm2 on node node2: LXC could not start it\n .*no init"
    ):
        start(script, monkeypatch)
    assert remote.running() == []


def test_an_unknown_image_is_told_with_those_that_exist(
    script: ModuleType, remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OarLxcError, match=r"image nosuch does not exist .* images here: debian"):
        start(script, monkeypatch, "--image", "nosuch")


def test_more_containers_than_addresses_are_told(
    script: ModuleType, remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(OarLxcError, match="has 2044 addresses for containers"):
        start(script, monkeypatch, "--per-node", "1500")


def test_without_a_command_it_says_how_to_connect_and_stays_until_a_signal(
    script: ModuleType,
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    running: list[str] = []

    def wait(self: object) -> None:
        running.extend(remote.running())
        raise SystemExit(143)

    monkeypatch.setattr(script.Session, "wait", wait)
    with pytest.raises(SystemExit):
        start(script, monkeypatch)
    told = capfd.readouterr().out
    assert running == ["vm1", "vm2"]
    assert re.search(r"^vm2 +node2 +100\.65\.80\.4 ", told, re.MULTILINE)
    assert "oar-lxc ssh 42/vm1\n" in told
    assert "oar-lxc exec 42/vm1 -- hostname\n" in told
    assert "oardel 42\n" in told
    assert "cpuset is off" not in told
    assert remote.running() == []


def test_in_an_interactive_job_ctrl_c_ends_the_containers_and_it_says_so(
    remote: FakeRemote, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[str] = []

    def wait(self: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session.Session, "wait", wait)
    monkeypatch.setattr(sys, "argv", ["lxc_job.py", "--wait", "running"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    monkeypatch.setattr("builtins.print", lambda text, **_: told.append(text))
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    assert caught.value.code == 130
    assert told[-2:] == [
        "end them:                   Ctrl-C",
        "lxc_job.py: interrupted; the containers are gone",
    ]
    assert remote.running() == []


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (KeyboardInterrupt(), 130),
        (SystemExit(143), 143),  # what SIGTERM becomes in a session
        (
            OSError(28, "No space left on device", "/x"),
            "{}: [Errno 28] No space left on device: '/x'",
        ),
    ],
    ids=["Ctrl-C", "SIGTERM", "full"],
)
def test_a_script_that_is_interrupted_ends_with_its_status(
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    script: Path,
    error: BaseException,
    status: int | str,
) -> None:
    """With no traceback, which whoever pressed Ctrl-C has no use for."""

    def fail(self: object) -> None:
        raise error

    monkeypatch.setattr(session.Session, "__enter__", fail)
    monkeypatch.setattr(sys, "argv", [script.name])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(script), run_name="__main__")
    wanted = status.format(script.name) if isinstance(status, str) else status
    assert caught.value.code == wanted
    said = f"{script.name}: interrupted; the " if status == 130 else ""
    assert capfd.readouterr().err.startswith(said)


def test_with_the_cpuset_off_it_says_which_walls_are_missing(
    script: ModuleType,
    remote: FakeRemote,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    layout = remote.by_name["node1"].layout
    text = layout.published.read_text().replace('"in_cpuset": true', '"in_cpuset": false')
    layout.published.write_text(text)

    def wait(self: object) -> None:
        raise SystemExit(143)

    monkeypatch.setattr(script.Session, "wait", wait)
    with pytest.raises(SystemExit):
        start(script, monkeypatch)
    (line,) = [x for x in capfd.readouterr().out.splitlines() if "cpuset is off" in x]
    assert "CPUs" in line


def test_any_bytes_that_a_command_writes_come_out(tmp_path: Path) -> None:
    # In a process of its own, whose standard streams are those that a job has.
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "import pytest\n"
        "from oar_lxc.model.job import Job\n"
        "from tests.unit.fakes.remote import prepared_nodes\n"
        "from tests.unit.test_job_script import SCRIPT\n"
        "import importlib.util\n"
        "spec = importlib.util.spec_from_file_location('lxc_job', SCRIPT)\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "with pytest.MonkeyPatch.context() as patch:\n"
        "    with prepared_nodes(Path(sys.argv.pop(1)), patch, Job(42, 'alice', {'node1': 1})):\n"
        "        sys.exit(module.main())\n"
    )
    (tmp_path / "nodes").write_text("node1\n")
    options = ["--wait", "running", "--"]
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path), *options, "printf", r"\377\303\251\000\n"],
        cwd=SCRIPT.parents[1],
        env={
            "PATH": os.environ["PATH"],
            "OAR_JOB_ID": "42",
            "OAR_NODEFILE": str(tmp_path / "nodes"),
            "LC_ALL": "C.UTF-8",
        },
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.splitlines()[-1] == b"vm1: \xff\xc3\xa9\x00"


TOPOLOGIES = sorted((SCRIPT.parent / "networks").glob("*.toml"))


@pytest.mark.parametrize("path", TOPOLOGIES, ids=lambda path: path.name)
def test_the_networks_that_users_copy_are_as_their_names_say(path: Path) -> None:
    if path.name == "storm.toml":
        made = make_plan(read_spec(path.with_name("wide_area.toml")), Job(1, "", {"a": 4, "b": 4}))
        check_scenario(path, read_scenario(path), made)
        return
    made = make_plan(read_spec(path), Job(1, "", {"node1": 4, "node2": 4}))
    words = path.stem.split("_")
    numbers = {"two": 2, "four": 4}
    if "vms" in words:
        assert len(made.containers) == numbers[words[0]]
        assert len(made.networks) == numbers[words[2]]
    assert f"--spec jobscripts/networks/{path.name}" in path.read_text()

"""Whatever the arguments, the root side says one sentence and does nothing that was not asked."""

from __future__ import annotations

import contextlib
import io
import json
import pwd
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from oar_lxc.agent import main as agent
from oar_lxc.model.config import Config
from oar_lxc.model.layout import MAX_JOB_ID
from oar_lxc.model.wire import UP
from oar_lxc.oar import hook
from oar_lxc.root import main
from tests.unit.strategies import hostile, job_ids, nodes, users

USAGE = 2
# Words as OAR, or who plays OAR, might give them.
jobs = st.one_of(
    hostile,
    job_ids.map(str),
    st.sampled_from(["0", "-1", "2147483648", "٤٢", "1e3", "0x2a", " 42", "42\n", "9" * 5000]),
)
people = st.one_of(
    hostile,
    users,
    st.sampled_from(["root/../x", "-x", "--user", "a\nb", "a b", "$(id)", "..", "a;id", "é"]),
)
groups = st.one_of(
    hostile,
    st.sampled_from(["/oar/bob_7", "/oar/alice_42", "/../oar/alice_42", "/oar/-/alice_42", "oar"]),
    st.sampled_from(["/alice_42", "/oar//alice_42", "/oar/alice_42/", "/oar/alice_42/lxc", "/"]),
)
many_nodes = st.one_of(
    hostile,
    st.lists(nodes, max_size=3).map(",".join),
    st.sampled_from(["node1,", ",", "node1;id", "$(id)", "node1,-oX", "node1\nnode2", "a" * 999]),
)


class Done(BaseException):
    """Raised in place of work, to tell that it was reached, and with what."""


@contextmanager
def said() -> Iterator[io.StringIO]:
    """Catch what is said on standard error."""
    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        yield err


@pytest.fixture(scope="module", autouse=True)
def _no_work() -> Iterator[None]:
    """Let no command do anything."""

    def reached(*arguments: object, **options: object) -> None:
        raise Done

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("oar_lxc.root.prepare.Preparation.run", reached)
        patch.setattr("oar_lxc.root.destroy.Destruction.run", reached)
        patch.setattr("oar_lxc.root.leftovers.find_leftovers", reached)
        patch.setattr("oar_lxc.root.liveness.Judge.find_jobs", reached)
        patch.setattr("oar_lxc.oar.hook._everywhere", reached)
        patch.setattr("os.geteuid", lambda: 0)
        patch.setattr("resource.setrlimit", lambda *limits: None)
        account = pwd.struct_passwd(("somebody", "x", 1000, 1000, "", "/home/somebody", ""))
        patch.setattr("pwd.getpwnam", lambda name: account)
        patch.setattr("oar_lxc.linux.node_log.LOG", Path("/dev/null"))
        patch.setattr("oar_lxc.root.main.NodeLog", lambda bound=None: Quiet())
        yield


class Quiet:
    """A log that keeps nothing."""

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        yield


def node_main(argv: list[str]) -> tuple[int, str]:
    """Run the command; return its status, -1 where it went to work, and what it said."""
    with said() as err:
        try:
            main.main(argv)
        except Done:
            return -1, err.getvalue()
        except SystemExit as error:
            return int(error.code or 0), err.getvalue()
    raise AssertionError("it must leave")


@given(st.sampled_from(["destroy", "leftovers"]), jobs, people, groups)
def test_only_a_job_of_a_user_is_gone_to_work_on(
    command: str, job: str, user: str, group: str
) -> None:
    argv = [command, f"--job={job}", f"--user={user}", f"--cgroup={group}"]
    status, err = node_main(argv)
    valid = job.isascii() and job.isdigit() and 1 <= int(job[:11]) <= MAX_JOB_ID
    if status == -1:
        assert valid
        assert user.isascii()
        assert not set(user) & set("/ \n\0;$'\"`")
        assert group == "" or group.endswith(f"/{user}_{int(job)}")
        assert ".." not in group.split("/")
    else:
        assert status == USAGE
        assert err.startswith("oar-lxc-node: ")
        assert err.count("\n") == 1


@given(job_ids, users, nodes, many_nodes)
def test_nodes_are_host_names_and_this_one_is_among_them(
    job: int, user: str, node: str, names: str
) -> None:
    argv = ["prepare", f"--job={job}", f"--user={user}", f"--node={node}", f"--nodes={names}"]
    status, err = node_main(argv)
    if status == -1:
        assert node in names.split(",")
        assert not set(names) & set(" \n;$()/\0")
    else:
        assert (status, err.count("\n")) == (USAGE, 1)


@given(
    job_ids, users, st.one_of(hostile, st.sampled_from(["nan", "inf", "-1", "1e999", "7", "0.5"]))
)
def test_a_deadline_of_any_text_is_a_time_or_refused(job: int, user: str, text: str) -> None:
    argv = ["destroy", f"--job={job}", f"--user={user}", f"--deadline={text}"]
    try:
        valid = 0 <= float(text) < float("inf")
    except ValueError:
        valid = False
    assert node_main(argv)[0] == (-1 if valid else USAGE)


@pytest.mark.parametrize("text", ["0", "0.5", "46", "99999", "1e308"])
def test_a_deadline_is_never_longer_than_configured_nor_shorter_than_a_second(text: str) -> None:
    rest = main._deadline(45, float(text)).left()
    assert 0.9 < rest <= 45.1


@given(st.lists(st.one_of(hostile, st.sampled_from(["--job", "--", "-h", "@file", "destroy"]))))
def test_any_words_are_refused_with_status_2(words: list[str]) -> None:
    assume("-h" not in words)
    status, err = node_main(words)
    assert status in (USAGE, -1)
    assert "Traceback" not in err


@given(st.one_of(hostile, st.lists(jobs, max_size=3).map(",".join)))
def test_jobs_that_have_ended_are_numbers(text: str) -> None:
    status, err = node_main(["reap", "--dry-run", f"--ended={text}"])
    wrong = [x for x in text.split(",") if x and not (x.isascii() and x.isdigit())]
    assert status in ((USAGE,) if wrong else (USAGE, -1))
    assert "Traceback" not in err


@pytest.mark.parametrize("grace", ["nan", "-1", "-inf"])
def test_a_grace_that_is_no_time_is_refused(grace: str) -> None:
    """Whoever gets no grace is destroyed while it starts."""
    assert node_main(["reap", "--dry-run", f"--grace={grace}"])[0] == USAGE


@given(st.sampled_from(["prologue", "x", ""]), jobs, people, st.lists(hostile))
def test_any_arguments_of_a_hook_are_a_jobs_or_refused(
    name: str, job: str, user: str, more: list[str]
) -> None:
    """All but the epilogue's, which destroys without a nodefile too."""
    with pytest.MonkeyPatch.context() as patch, said() as err:
        patch.setattr(hook, "lenient_config", lambda: (Config("prologue"), ""))
        patch.setattr(sys, "argv", ["hook", name, job, user, "/nonexistent/nodes", *more])
        with pytest.raises(SystemExit) as caught:
            hook.main()
    assert caught.value.code in (1, 2)
    assert err.getvalue().startswith(("oar-lxc-node: ", "usage:"))
    assert err.getvalue().count("\n") == 1


@given(jobs, hostile, st.one_of(hostile, st.sampled_from(["{}", "[]", "1", "null", "{", '"x"'])))
def test_any_request_to_an_agent_is_an_event_and_a_status(
    job: str, operation: str, request: str
) -> None:
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setattr(sys, "argv", ["agent", job, operation])
        patch.setattr(sys, "stdin", io.StringIO(request.replace("\n", " ") + "\n"))
        with pytest.raises(SystemExit) as caught:
            agent.main()
    assert caught.value.code in (1, 2)
    _, up, line = out.getvalue().splitlines()
    assert up.encode() == UP
    assert json.loads(line)["event"] == "error"

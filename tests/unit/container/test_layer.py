"""The files that a container has of its own."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oar_lxc.container.layer import AccountInside, LayerFiles, extend, hosts_script
from oar_lxc.linux.run import run
from oar_lxc.model.interfaces import Interface
from oar_lxc.model.names import MARK, Peer
from oar_lxc.model.plan import PlannedContainer
from tests.unit.fakes.node import HOST_KEY, KEYS

ALICE = AccountInside("alice", 2001, 2001, "alice", "Alice", "/home/alice", "/bin/zsh")
PASSWD = "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\n"
NAMES = {"vm1": Peer("100.64.0.2", "ssh-ed25519 A"), "vm2": Peer("100.64.0.3", "ssh-ed25519 B")}


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    rootfs = tmp_path / "rootfs"
    (rootfs / "etc").mkdir(parents=True)
    (rootfs / "etc/passwd").write_text(PASSWD)
    (rootfs / "etc/group").write_text("root:x:0:\nusers:x:100:\n")
    return rootfs


def members(
    rootfs: Path,
    account: AccountInside | None = ALICE,
    *,
    home: bool = False,
) -> dict[str, tuple[tarfile.TarInfo, str]]:
    """Return what is in a container's archive, by its path from the container's directory."""
    planned = PlannedContainer("vm1", "node1", "100.64.0.2/21", "image", "vm", home=home)
    files = LayerFiles(NAMES, KEYS, {"vm1": HOST_KEY}, account)
    archive = files.archive("layers", [planned], {"image": rootfs})
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for info in tar:
            file = tar.extractfile(info)
            text = file.read().decode("latin-1") if file else ""
            found[info.name.removeprefix("layers/vm/")] = (info, text)
    return found


def test_a_containers_own_directories_have_its_name_alone(rootfs: Path) -> None:
    found = members(rootfs)
    own = {path for path in found if path.startswith("vm1/")}
    assert own == {
        "vm1/upper",
        "vm1/upper/etc",
        "vm1/upper/etc/hostname",
        "vm1/upper/etc/ssh",
        "vm1/upper/etc/ssh/ssh_host_ed25519_key",
        "vm1/upper/etc/ssh/ssh_host_ed25519_key.pub",
        "vm1/work",
    }
    assert found["vm1/upper/etc/hostname"][1] == "vm1\n"


def test_the_user_is_added_to_the_users_of_the_image(rootfs: Path) -> None:
    found = members(rootfs)
    # The image has no zsh; a password can be set by root inside.
    assert found["etc/passwd"][1] == (PASSWD + "alice:*:2001:2001:Alice:/home/alice:/bin/sh\n")
    assert found["etc/group"][1] == "root:x:0:\nusers:x:100:\nalice:x:2001:\n"


def test_she_has_her_shell_where_the_image_has_it(rootfs: Path) -> None:
    (rootfs / "bin").mkdir()
    (rootfs / "bin/zsh").touch(mode=0o755)
    assert members(rootfs)["etc/passwd"][1].endswith(":/bin/zsh\n")


def test_her_group_may_be_one_of_the_image(rootfs: Path) -> None:
    account = AccountInside("alice", 2001, 100, "people", home="/home/alice")
    assert members(rootfs, account)["etc/group"][1] == "root:x:0:\nusers:x:100:\n"
    account = AccountInside("alice", 2001, 4711, "users", home="/home/alice")
    text = members(rootfs, account)["etc/group"][1]
    assert text == "root:x:0:\nusers:x:100:\ngroup4711:x:4711:\n"


@pytest.mark.parametrize(
    ("lines", "result"),
    [
        (["root:x:0:0", "debian:x:5:5"], ["root:x:0:0", "me:*:5:5", "debian:x:5:5"]),
        (["me:x:9:9", "root:x:0:0"], ["root:x:0:0", "me:*:5:5"]),
        (["+::::::"], ["+::::::", "me:*:5:5"]),
    ],
)
def test_an_id_is_hers_first_and_a_name_hers_alone(lines: list[str], result: list[str]) -> None:
    assert extend(lines, "me:*:5:5") == result


def test_an_image_without_users_gets_root_and_her(rootfs: Path) -> None:
    for name in ("passwd", "group"):
        (rootfs / "etc" / name).unlink()
        (rootfs / "etc" / name).symlink_to(f"/etc/{name}.missing")
    lines = members(rootfs)["etc/passwd"][1].splitlines()
    assert [line.split(":")[0] for line in lines] == ["root", "alice"]


def test_she_has_a_home_of_her_own_unless_it_is_mounted(rootfs: Path) -> None:
    info, _ = members(rootfs)["home/alice"]
    assert (info.uid, info.gid, info.mode, info.isdir()) == (2001, 2001, 0o700, True)
    assert members(rootfs)["home"][0].uid == 0
    assert "home/alice" not in members(rootfs, home=True)


def test_directories_on_the_way_stay_as_the_image_has_them(rootfs: Path) -> None:
    (rootfs / "scratch").mkdir()
    (rootfs / "scratch").chmod(0o1777)
    (rootfs / "homes").symlink_to("scratch")
    account = AccountInside("alice", 2001, 2001, "alice", home="/homes/alice")
    found = members(rootfs, account)
    assert found["scratch"][0].mode == 0o1777
    assert found["scratch/alice"][0].mode == 0o700
    assert "homes" not in found


def test_dropbear_gets_the_host_key_where_the_image_has_it(rootfs: Path) -> None:
    dropbear = rootfs / "usr/sbin/dropbear"
    dropbear.parent.mkdir(parents=True)
    dropbear.touch(mode=0o755)
    info, data = members(rootfs)["vm1/upper/etc/dropbear/dropbear_ed25519_host_key"]
    assert (info.mode, info.uid, info.gid) == (0o600, 0, 0)
    assert data.encode("latin-1") == HOST_KEY.dropbear()


def test_private_keys_are_their_owners_alone(rootfs: Path) -> None:
    found = members(rootfs)
    for path, owner in (("etc/ssh/oar-lxc/root", 0), ("etc/ssh/oar-lxc/alice", 2001)):
        info, text = found[path]
        assert (info.mode, info.uid, info.gid, text) == (0o600, owner, owner, KEYS["client"])


def test_all_containers_are_known_and_reached_with_the_jobs_key(rootfs: Path) -> None:
    found = members(rootfs)
    assert found["etc/ssh/ssh_known_hosts"][1].splitlines() == [
        "vm1,100.64.0.2 ssh-ed25519 A # oar-lxc",
        "vm2,100.64.0.3 ssh-ed25519 B # oar-lxc",
    ]
    assert found["etc/ssh/ssh_config.d/oar-lxc.conf"][1] == (
        "Host vm1 100.64.0.2 vm2 100.64.0.3\n    IdentityFile /etc/ssh/oar-lxc/%u\n"
    )


def test_nothing_is_added_where_she_is_nobody(rootfs: Path) -> None:
    assert not {"etc/passwd", "home"} & set(members(rootfs, None))
    assert os.listdir(rootfs) == ["etc"]


def test_nothing_in_the_image_asks_for_an_address_again(rootfs: Path) -> None:
    assert "etc/network/interfaces" not in members(rootfs)
    for program in ("sbin/ifup", "lib/systemd/systemd-networkd", "usr/sbin/NetworkManager"):
        (rootfs / program).parent.mkdir(parents=True, exist_ok=True)
        (rootfs / program).touch(mode=0o755)
    found = members(rootfs)
    assert "iface eth0 inet manual\n" in found["etc/network/interfaces"][1]
    assert "Unmanaged=yes\n" in found["etc/systemd/network/00-oar-lxc.network"][1]
    path = "etc/NetworkManager/conf.d/00-oar-lxc.conf"
    assert "unmanaged-devices=interface-name:eth0\n" in found[path][1]


def test_a_value_that_pam_would_cut_is_left_out_of_the_file_that_it_reads(rootfs: Path) -> None:
    planned = PlannedContainer("vm1", "node1", "100.64.0.2/21", "image", "vm")
    variables = {"OAR_JOB_NAME": "a#b", "A": "b c"}
    files = LayerFiles(NAMES, KEYS, {"vm1": HOST_KEY}, ALICE, variables=variables)
    archive = files.archive("layers", [planned], {"image": rootfs})
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        file = tar.extractfile("layers/vm/etc/environment")
        assert file is not None
        text = file.read().decode()
    assert 'A="b c"\n' in text
    assert "OAR_JOB_NAME" not in text
    assert files.environment(planned)["OAR_JOB_NAME"] == "a#b"


accounts = st.builds(
    lambda name, uid: f"{name}:x:{uid}:100::/:/bin/sh",
    st.sampled_from("abc"),
    st.sampled_from(["1", "2", "33"]),
)


@given(st.lists(accounts | st.just("# no account"), max_size=6), accounts)
def test_a_name_of_passwd_has_one_line_and_it_is_the_first_of_its_id(
    lines: list[str], mine: str
) -> None:
    name, _, uid = mine.split(":")[:3]
    new = extend(lines, mine)
    assert [line for line in new if line.split(":")[0] == name] == [mine]
    assert next(line for line in new if line.split(":")[2:3] == [uid]) == mine
    others = [line for line in lines if line.split(":")[0] != name]
    assert [line for line in new if line != mine] == others


names = st.dictionaries(
    st.sampled_from(["vm1", "vm2", "vm12", "a1"]),
    st.builds(
        Peer,
        st.ip_addresses(v=4).map(str),
        st.sampled_from(["ssh-ed25519 A", "ssh-ed25519 B"]),
        st.just({}),
    ),
)


@given(st.lists(names, min_size=1, max_size=3), st.sampled_from(["", "::1 vm1\n# mine\n"]))
def test_a_name_has_one_line_of_ours_however_often_names_change(
    tmp_path: Path, told: list[dict[str, Peer]], others: str
) -> None:
    for name in ("etc/hosts", "etc/ssh/ssh_known_hosts"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(others)
    script = "".join(hosts_script(peers, ("main",)) for peers in told).replace(
        "put /", f"put {tmp_path}/"
    )
    run(["sh", "-c", script])
    last = told[-1].items()
    hosts = "".join(f"{ip} {name} {MARK}\n" for name, (ip, _, _) in last)
    assert (tmp_path / "etc/hosts").read_text() == others + hosts
    known = "".join(f"{name},{ip} {key} {MARK}\n" for name, (ip, key, _) in last)
    assert (tmp_path / "etc/ssh/ssh_known_hosts").read_text() == others + known


def test_a_container_of_further_networks_has_its_own_view_and_leaves_them_alone(
    rootfs: Path,
) -> None:
    for program in ("sbin/ifup", "lib/systemd/systemd-networkd", "usr/sbin/NetworkManager"):
        path = rootfs / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    left = Interface("left", "eth1", "10.1.0.1/16", "02:6d:0a:01:00:01", number=1)
    planned = PlannedContainer(
        "p1", "node1", "100.64.0.2/21", "image", "p", main=False, interfaces=(left,)
    )
    peers = {
        "p1": Peer("", "ssh-ed25519 A", {"left": ("10.1.0.1",)}),
        "vm1": Peer("100.64.0.3", "ssh-ed25519 B", {"left": ("10.1.0.2",)}),
    }
    files = LayerFiles(peers, KEYS, {"p1": HOST_KEY}, ALICE)
    archive = files.archive("layers", [planned], {"image": rootfs})
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        told = {
            info.name.removeprefix("layers/p/"): tar.extractfile(info).read().decode()  # type: ignore[union-attr]
            for info in tar
            if info.isfile()
        }
    assert told["etc/hosts"].splitlines() == [
        "127.0.0.1 localhost",
        "10.1.0.1 p1 p1.left # oar-lxc",
        "10.1.0.2 vm1 vm1.left # oar-lxc",
        "100.64.0.3 vm1.main # oar-lxc",
    ]
    known = "vm1,vm1.left,vm1.main,10.1.0.2,100.64.0.3 ssh-ed25519 B # oar-lxc"
    assert known in told["etc/ssh/ssh_known_hosts"].splitlines()
    assert told["etc/network/interfaces"].endswith("\nauto eth1\niface eth1 inet manual\n")
    assert "Name=eth1\n" in told["etc/systemd/network/00-oar-lxc.network"]
    assert "=interface-name:eth1\n" in told["etc/NetworkManager/conf.d/00-oar-lxc.conf"]

"""A spec file is read whole, or refused with one sentence that names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from oar_lxc.errors import SpecError
from oar_lxc.model.links import Link
from oar_lxc.model.networks import Main, Membership, Network
from oar_lxc.model.spec import Group, Port, Spec
from oar_lxc.model.specfile import read_spec

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "vms.toml"
    path.write_text(text)
    return path


def test_a_file_says_what_the_dataclasses_say(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_text("#!/bin/sh\ntrue\n")
    (tmp_path / "me.pub").write_text(KEY + "\n")
    path = written(
        tmp_path,
        f"""
        wait = "boot"
        timeout = 30
        [[group]]
        name = "web"
        per_node = 2
        cores = 1
        memory = "512M"
        environment = {{ A = "b" }}
        ports = ["8080:80"]
        [[group]]
        total = 3
        provision = "setup.sh"
        ssh_keys = ["me.pub", "{KEY}"]
        """,
    )
    web = Group(
        name="web",
        per_node=2,
        cores=1,
        memory=512 << 20,
        environment={"A": "b"},
        ports=(Port(8080, 80),),
    )
    other = Group(total=3, provision="#!/bin/sh\ntrue\n", ssh_keys=(KEY, KEY))
    assert read_spec(path) == Spec((web, other), "boot", 30.0)


def test_networks_and_links_are_tables(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        """
        [[network]]
        name = "left"
        subnet = "192.168.100.0/24"
        ipv6 = true
        [[group]]
        networks = ["left:192.168.100.7"]
        forward = true
        [[link]]
        network = "left"
        from = "vm"
        to = "vm1"
        rate = "10Mbit"
        both = false
        [main]
        internet = false
        """,
    )
    assert read_spec(path) == Spec(
        (Group(networks=(Membership("left", "192.168.100.7"),), forward=True),),
        networks=(Network("left", "192.168.100.0/24", True),),
        links=(Link("left", "vm", "vm1", rate="10Mbit", both=False),),
        main=Main(internet=False),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no group: write a table [[group]] for each"),
        ("[group]\n", "there is no group: write a table [[group]] for each"),
        ("group = [1]\n", "there is no group: write a table [[group]] for each"),
        ("[[group]\n", ": line 1 is '[[group]', which is no TOML: Expected"),
        ("wait = 'x'\r\nwait = 'y'\r\n", ": line 2 is \"wait = 'y'\", which is no TOML: "),
        ("wait = [", ": it is no TOML: Invalid value (at end of document)"),
        ("wait = " + "[" * 5000, ": its lists or tables are nested too deeply"),
        ("timeout = " + "9" * 5000, ": it is no TOML: Exceeds the limit"),
        ("[[groups]]\n", "unknown key 'groups'; did you mean group?"),
        ("zzz = 1\n", "unknown key 'zzz'; known: wait, timeout, group, network, link, main"),
        ("[[group]]\n[network]\n", "network is {}; write a table [[network]] for each"),
        ("[[group]]\n[[main]]\n[[main]]\n", "there are several tables main: write one, [main]"),
        ("main = 1\n[[group]]\n", "main is 1; write a table [main]"),
        ("[[group]]\n[main]\nnat = true\n", ", main: unknown key 'nat'; known: internet"),
        ("[[group]]\n[main]\ninternet = 1\n", ", main: internet is 1; it is true or false"),
        ("[[group]]\n[[network]]\nname='a'\ncidr='x'\n", ", network a: unknown key 'cidr'; did"),
        ("[[group]]\n[[network]]\n", ", network 1: name is ''; it starts"),
        ("[[group]]\n[[network]]\nname='a'\nsubnet='x'\n", ", network a: subnet is 'x'; it is"),
        ("[[group]]\n[[link]]\nlatency='1ms'\n", ", link 1: unknown key 'latency'; did you mean"),
        ("[[group]]\n[[link]]\nsrc='vm'\n", ", link 1: unknown key 'src'; did you mean from?"),
        ("[[group]]\n[[link]]\ndelay='1ms'\n", ", link 1: network is ''; it is the name"),
        (
            "[[group]]\n[[link]]\nnetwork='main'\nrate='1'\n",
            ", link 1: rate is '1'; it is a number",
        ),
        (
            "[[group]]\n[[link]]\nnetwork='x'\nrate='1Mbit'\n",
            "link 1: network x is not among main",
        ),
        ('wait = "sssh"\n[[group]]\n', "wait is 'sssh'; did you mean ssh?"),
        ("[[group]]\nmemroy = '1G'\n", ", group 1: unknown key 'memroy'; did you mean memory?"),
        ("[[group]]\nname = 'a'\ncores = 0\n", ", group a: cores is 0; at least 1 core"),
        ("[[group]]\n[[group]]\nper_node = 0\n", ", group 2: per_node is 0; at least 1"),
        ("[[group]]\n[[group]]\n", "two groups have the name 'vm'"),
        ("[[group]]\nprovision = 'no.sh'\n", "1: provision has 'no.sh', and "),
        ("[[group]]\nprovision = 'no.sh'\n", "no.sh cannot be read: No such file"),
        ("[[group]]\nprovision = '~nobody9/x'\n", "1: provision has '~nobody9/x', and "),
        ("[[group]]\nprovision = 'a\\u0000b'\n", "provision"),
        ("[[group]]\nprovision = '/dev/zero'\n", "/dev/zero is larger than 1 MiB"),
        ("[[group]]\nssh_keys = ['no.pub']\n", "no.pub cannot be read: No such file"),
        ("[[group]]\nssh_keys = ['x']\n", "'x' is no public key"),
    ],
)
def test_a_mistake_is_one_sentence_that_names_file_group_and_key(
    tmp_path: Path, text: str, message: str
) -> None:
    path = written(tmp_path, text)
    with pytest.raises(SpecError) as caught:
        read_spec(path)
    assert str(caught.value).startswith(f"{path}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text_or_is_not_there_is_named(tmp_path: Path) -> None:
    path = tmp_path / "vms.toml"
    with pytest.raises(SpecError, match=r"vms\.toml cannot be read: No such file"):
        read_spec(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"vms\.toml: it is no text in UTF-8"):
        read_spec(path)


def test_files_of_windows_are_read(tmp_path: Path) -> None:
    (tmp_path / "setup.sh").write_bytes(b"\xef\xbb\xbf#!/bin/sh\r\ntrue\r\n")
    (tmp_path / "me.pub").write_bytes(b"\xef\xbb\xbf" + KEY.encode() + b"\r\n")
    path = tmp_path / "vms.toml"
    text = '[[group]]\r\nprovision = "setup.sh"\r\nssh_keys = ["me.pub"]\r\n'
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_spec(path) == Spec((Group(provision="#!/bin/sh\ntrue\n", ssh_keys=(KEY,)),))


def test_a_script_of_python_is_the_same() -> None:
    assert Group(provision="\ufeff#!/bin/sh\r\ntrue\r\n").provision == "#!/bin/sh\ntrue\n"

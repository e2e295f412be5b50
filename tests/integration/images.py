"""Archives of images that tests share."""

from __future__ import annotations

from pathlib import Path

from oar_lxc.linux.run import run


def layout_of_oci(tree: Path, where: Path) -> str:
    layout = where / "oci"
    umoci = ["umoci"]
    run([*umoci, "init", "--layout", str(layout)])
    run([*umoci, "new", "--image", f"{layout}:v1"])
    run([*umoci, "unpack", "--image", f"{layout}:v1", str(where / "bundle")])
    run(["cp", "-a", f"{tree}/.", str(where / "bundle/rootfs")])
    run([*umoci, "repack", "--image", f"{layout}:v1", str(where / "bundle")])
    return str(layout)

"""``oar-lxc image``: list, make, verify and distribute public images and a user's own."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path

import click

from oar_lxc.cli.shared.meter import Meter
from oar_lxc.cli.shared.stores import (
    configured,
    every,
    find,
    job_around,
    refuse_in_use,
    whose,
    writable_store,
)
from oar_lxc.cli.shared.table import print_table
from oar_lxc.cli.shared.targets import complete_job, remote_of_job
from oar_lxc.client.images import ImageOfJob, images_of
from oar_lxc.errors import ImageError, UsageError
from oar_lxc.image.building import BuildPlace, build_image
from oar_lxc.image.importing import Listener, import_image, verify
from oar_lxc.image.recipes import RECIPES, recipe_for
from oar_lxc.image.store import Store, facts_of
from oar_lxc.linux.signals import raising_signals
from oar_lxc.model.image_name import OWN, PUBLIC, ImageName
from oar_lxc.model.layout import JobLayout, check_job_id

_store = click.option(
    "--store",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIRECTORY",
    help="Another directory of images than that of this machine or user.",
)
_archive = click.option(
    "--archive",
    is_flag=True,
    help="Keep it packed, for a store on a file system that cannot shift ids (NFS).",
)
_job = click.option(
    "--job",
    metavar="JOB",
    shell_complete=complete_job,
    help="As the nodes of this job of yours have them.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")

_ON_NODES = (
    "public images are on nodes: run this in a job, or name one of yours that runs, as in "
    "`oar-lxc image {} --job 42`"
)


@click.group()
def image() -> None:
    """Images, the root file systems that containers share: list, make, verify, distribute.

    Public images belong to the administrator: root's commands on a node act on them. Users also
    have images of their own, which only their own jobs can use. An image never changes: a new
    version gets another name or tag.

    \b
    Examples:
      oar-lxc image list
      oar-lxc image import mine:2 ./rootfs.tar.xz
      oar-lxc image build debian-12:work --packages gcc,make
    """


@image.command("list")
@_job
@_store
@_json
def list_(job: str | None, directory: Path | None, as_json: bool) -> None:
    """List the images that jobs can use: public images and the caller's own.

    Public images are on nodes: users see them inside a job, or from a frontend with --job.

    \b
    Examples:
      oar-lxc image list
      oar-lxc image list --job 42
      oar-lxc image list --json
    """
    if job:
        _refuse_both(directory)
    found = (
        _of_job(job)
        if job
        else [
            ImageOfJob(facts_of(record, whose(store), store)) for record, store in every(directory)
        ]
    )
    if as_json:
        told = [asdict(one.facts) | ({"nodes": [*one.nodes]} if job else {}) for one in found]
        click.echo(json.dumps(told, indent=1))
    elif found:
        titles = ["IMAGE", "WHOSE", "SIZE", "CREATED", "DIGEST", *(["NODES"] if job else [])]
        print_table(titles, [_row(one, job) for one in found], right=("SIZE",))
    if hint := _hint(job, directory, found):
        click.echo(hint, err=True)


def _refuse_both(directory: Path | None) -> None:
    if directory:
        raise UsageError("--job or --store, not both")


def _hint(job: str | None, directory: Path | None, found: list[ImageOfJob]) -> str:
    """Return a hint where more images may be; empty if the list is complete."""
    if job or directory:
        return "" if found else f"no images {f'in {directory}' if directory else 'on its nodes'}"
    if os.geteuid() == 0:
        return "" if found else "no images here: `oar-lxc image build` or `import` makes one"
    if PUBLIC in {one.facts.whose for one in found}:
        return ""
    return f"{'' if found else 'no images here; '}{_ON_NODES.format('list')}"


def _of_job(job: str) -> list[ImageOfJob]:
    """Return the images that the nodes of a job have, and the caller's own."""
    found = images_of(remote_of_job(job))
    store = Store.private()
    own = [facts_of(store.record(name), OWN, store) for name in store.names()]
    return [*found, *map(ImageOfJob, own)]


def _row(one: ImageOfJob, job: str | None) -> list[str]:
    facts = one.facts
    size, created, digest = f"{facts.size / 1e6:.1f} MB", facts.created[:10], facts.digest[7:19]
    where = [",".join(one.nodes) or "at home"] if job else []
    return [facts.image, facts.whose, size, created, digest, *where]


@image.command()
@click.argument("name")
@_job
@_store
@_json
def show(name: str, job: str | None, directory: Path | None, as_json: bool) -> None:
    """Show what is known of the image NAME[:TAG].

    Public images are on nodes: users see them inside a job, or from a frontend with --job. Then
    JSON is a list, as nodes may have different images of one name.

    \b
    Examples:
      oar-lxc image show debian-12
      oar-lxc image show debian-12 --job 42
    """
    if job:
        _refuse_both(directory)
        found = _named(ImageName.parse(name), job)
    else:
        store, parsed = _found(name, directory)
        found = [ImageOfJob(facts_of(store.record(parsed), whose(store), store))]
    told = [asdict(one.facts) | ({"nodes": [*one.nodes]} if job else {}) for one in found]
    if as_json:
        click.echo(json.dumps(told if job else told[0], indent=1))
        return
    for number, facts in enumerate(told):
        if number:
            click.echo()
        for key, value in facts.items():
            text = ", ".join(value) or "none: it is at home" if key == "nodes" else value
            click.echo(f"{key.replace('_', ' ')}: {text}")


def _found(name: str, directory: Path | None) -> tuple[Store, ImageName]:
    """Find an image; where it may be on nodes alone, say so."""
    try:
        return find(name, directory)
    except ImageError as error:
        if directory or os.geteuid() == 0 or job_around():
            raise
        raise ImageError(f"{error}; {_ON_NODES.format(f'show {name}')}") from None


def _named(name: ImageName, job: str) -> list[ImageOfJob]:
    """Return the images of a name that a job has on its nodes, or the caller at home.

    Raises:
        ImageError: there is none.
    """
    there = _of_job(job)
    found = [one for one in there if one.facts.image == str(name)]
    if not found:
        names = ", ".join(dict.fromkeys(one.facts.image for one in there)) or "none"
        raise ImageError(f"image {name} is on no node of job {job}; images there: {names}")
    return found


@image.command("import")
@click.argument("name")
@click.argument("source")
@_archive
@_store
def import_(name: str, source: str, archive: bool, directory: Path | None) -> None:
    """Make the image NAME[:TAG] from SOURCE.

    SOURCE is one of these: a root file system as a tar archive (plain, gzip, xz, zstd), a
    directory or squashfs; an image of LXD or Incus; an image of OCI or Docker, as a layout or as
    an archive of `docker save` and the like. If SOURCE has several images, choose one by a name in
    skopeo's form: oci:DIRECTORY:TAG, oci-archive:FILE:TAG, docker-archive:FILE:NAME:TAG. Nothing
    is fetched from registries. Root makes a public image of this machine; other users make images
    of their own. Owners, set-user-id bits, capabilities and hard links are kept. Devices below
    /dev are left out. Other devices, and names that lead out of the root, are refused.

    \b
    Examples:
      oar-lxc image import mine ./rootfs.tar.zst
      oar-lxc image import mine:2 ./rootfs/
      docker save alpine >alpine.tar; oar-lxc image import alpine alpine.tar
      oar-lxc image import web docker-archive:all.tar:web:2
    """
    _check_order(name, source)
    parsed = ImageName.parse(name)
    store = writable_store(directory, parsed, archive)
    with raising_signals(), Meter(f"importing {parsed}") as meter:
        record = import_image(store, parsed, source, Listener(meter.say, meter.update))
    click.echo(f"{parsed} {record.digest}")


def _check_order(name: str, source: str) -> None:
    """Refuse the arguments of an import in the order of cp.

    Raises:
        UsageError: NAME is what there is, and SOURCE is not, but could be a name.
    """
    if os.access(source, os.F_OK) or not os.access(name, os.F_OK):
        return
    with suppress(ImageError):
        ImageName.parse(source)
        raise UsageError(
            f"{source}: No such file or directory; the image's name comes first: "
            f"`oar-lxc image import {shlex.quote(source)} {shlex.quote(name)}`"
        )


@image.command()
@click.argument("name")
@click.option("--packages", default="", metavar="A,B", help="Install these packages too.")
@click.option("--suite", help="The release, instead of the recipe's.")
@click.option(
    "--recipe",
    metavar="RECIPE",
    help=f"A ready recipe ({', '.join(RECIPES)}) or a TOML file; by default that of the NAME.",
)
@_archive
@_store
def build(
    name: str,
    packages: str,
    suite: str | None,
    recipe: str | None,
    archive: bool,
    directory: Path | None,
) -> None:
    """Build the image NAME[:TAG] from Debian's or Ubuntu's packages.

    Without --recipe, NAME must be a ready recipe. Users build inside a job, because a build needs
    the job's range of user ids.

    \b
    Examples:
      oar-lxc image build debian-12
      oar-lxc image build debian-12:gcc --packages gcc,make
      oar-lxc image build lab --recipe lab.toml
    """
    parsed = ImageName.parse(name)
    chosen = recipe_for(parsed.name, recipe)
    chosen = chosen.with_packages(tuple(filter(None, packages.split(","))))
    if suite:
        chosen = replace(chosen, suite=suite)
    store = writable_store(directory, parsed, archive)
    build_place = _build_place(name)
    with raising_signals(), Meter(f"building {parsed}") as meter:
        listener = Listener(meter.say, meter.update, meter.follow)
        record = build_image(store, parsed, chosen, build_place, listener)
    click.echo(f"{parsed} {record.digest}")


@image.command("verify")
@click.argument("names", nargs=-1, metavar="[NAME]...")
@_store
def verify_(names: tuple[str, ...], directory: Path | None) -> None:
    """Read whole images and compare them with their digests; by default all images.

    On a node, root verifies public images; other users verify their own.

    \b
    Examples:
      oar-lxc image verify
      oar-lxc image verify debian-12 mine:2
    """
    if names:
        wanted = [find(name, directory) for name in names]
        for store, parsed in wanted:
            if os.geteuid() != 0 and directory is None and whose(store) == PUBLIC:
                raise ImageError(f"image {parsed} is public: only root may read all of it")
    else:
        wanted = [(store, record.image) for record, store in every(directory)]
        if os.geteuid() != 0 and directory is None:
            wanted = [(store, name) for store, name in wanted if whose(store) == OWN]
        if not wanted:
            click.echo("there are no images to verify", err=True)
    failures = []
    for store, parsed in wanted:
        try:
            with raising_signals(), Meter(f"verifying {parsed}") as meter:
                record = verify(store, parsed, meter.update)
            click.echo(f"{parsed} {record.digest} ok")
        except ImageError as error:
            failures.append(str(error))
    if failures:
        raise ImageError("\n".join(failures))


@image.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--force", is_flag=True, help="Also where containers use it.")
@_store
def rm(names: tuple[str, ...], force: bool, directory: Path | None) -> None:
    """Remove images, unless a container on this machine uses them.

    \b
    Examples:
      oar-lxc image rm mine:1
    """
    found = [find(name, directory, writable=True) for name in names]
    for store, parsed in found:
        if not force:
            refuse_in_use(parsed, store.record(parsed).digest)
    for store, parsed in found:
        with Meter(f"removing {parsed}"):
            store.remove(parsed)


@image.command()
@click.argument("name")
@click.option("--nodes", default="", metavar="A,B", help="To these; to all nodes by default.")
@click.option(
    "--job", metavar="JOB", shell_complete=complete_job, help="To the nodes of this job of yours."
)
@_store
@_json
def push(name: str, nodes: str, job: str | None, directory: Path | None, as_json: bool) -> None:
    """Distribute the image NAME[:TAG] to nodes that share no store.

    On the OAR server, root pushes a public image of this machine to all nodes, or to --nodes. With
    --job, users push an image of their own to the nodes of a job, for the job's containers; this
    is needed only if the nodes do not have your home. TakTuk sends the image from node to node,
    and each node checks every chunk. An interrupted push continues where it stopped.

    \b
    Examples:
      oar-lxc image push debian-12:2
      oar-lxc image push debian-12:2 --nodes node7,node8
      oar-lxc image push mine --job 42
    """
    from oar_lxc.cli.shared.routes import route_to_job, route_to_nodes, scratch_for
    from oar_lxc.image.push import push, to_json

    store, parsed = find(name, directory, writable=True)
    route = route_to_job(job) if job else route_to_nodes(nodes)
    with raising_signals(), Meter(f"pushing {parsed}") as meter, scratch_for(route) as scratch:
        pushed = push(store, parsed, route, scratch, meter.say)
    if as_json:
        click.echo(to_json(pushed))
    else:
        for node in pushed.present:
            click.echo(f"{node}: had it")
        for node in pushed.done:
            click.echo(f"{node}: has it now")
    if pushed.failed:
        whys = "\n".join(f"{node}: {why}" for node, why in pushed.failed.items())
        raise ImageError(f"image {parsed} was not pushed to {len(pushed.failed)} nodes:\n{whys}")


@image.command(hidden=True)
@click.option("--offer", "only_offer", is_flag=True)
@click.option("--job")
def receive(only_offer: bool, job: str | None) -> None:
    """Receive an image on standard input; only `push` uses this command."""
    from oar_lxc.image.provide import pushed_store
    from oar_lxc.image.receive import offer, read_header, receive

    store = pushed_store(JobLayout(check_job_id(job))) if job else configured()
    stream = sys.stdin.buffer
    header = read_header(stream)
    if only_offer:
        click.echo(offer(store, header))
    else:
        receive(store, header, stream)


def _build_place(name: str) -> BuildPlace | None:
    """Return the place where a user builds: inside a job, with its ids; None for root."""
    if os.geteuid() == 0:
        return None
    job = job_around()
    if not job:
        raise ImageError(
            "users build images inside a job of type lxc: oarsub -t lxc -l "
            f'nodes=1,walltime=0:30:00 "oar-lxc image build {name} …"'
        )
    # Slow to import, and no other command here needs them.
    from oar_lxc.agent.prepared import environ_here, open_job
    from oar_lxc.container.job_namespaces import JobNamespaces

    layout, _ = open_job(job.job_id)
    return BuildPlace(layout.containers, JobNamespaces(layout).become_root, environ_here(layout))

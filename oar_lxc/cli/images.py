"""``oar-lxc image``: the images of this node."""

from __future__ import annotations

import json
import os
from pathlib import Path

import click

from oar_lxc.image import DIRECTORY, RECIPES, build, list_images
from oar_lxc.layout import JobLayout, check_job_id


@click.group()
def image() -> None:
    """List and build the images of this node."""


@image.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, a list of names.")
def list_(as_json: bool) -> None:
    """List the images that jobs can use on this node."""
    job = os.environ.get("OAR_JOB_ID", "")
    # A job sees them through its own mount; the store itself is root's.
    names = list_images(JobLayout(check_job_id(job)).images if job else DIRECTORY)
    if as_json:
        click.echo(json.dumps(names))
    else:
        none = "there are no images on this machine: images are on nodes, run this in a job"
        click.echo("\n".join(names) or none, err=not names)


@image.command("build")
@click.argument("name", type=click.Choice(sorted(RECIPES)))
@click.option(
    "--directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=DIRECTORY,
    show_default=True,
    help="Where the image goes.",
)
def build_(name: str, directory: Path) -> None:
    """Build the image NAME from Debian's packages, as root.

    \b
    Example:
      oar-lxc image build debian-12
    """
    click.echo(build(name, directory, say=lambda text: click.echo(text, err=True)))

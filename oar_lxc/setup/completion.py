"""Completion of the command in shells: click's scripts, and tcsh, which click does not know."""

from __future__ import annotations

import os
import shlex

import click
from click.shell_completion import (
    CompletionItem,
    ShellComplete,
    add_completion_class,
    get_completion_class,
)

from oar_lxc.errors import OarLxcError

NAME = "oar-lxc"
VARIABLE = "_OAR_LXC_COMPLETE"  # click's, which says which shell asks
_TCSH = """\
if ($?tcsh && $?prompt && -x /usr/bin/%(prog_name)s) then
    complete %(prog_name)s 'p,*,`env %(complete_var)s=tcsh_complete %(prog_name)s`,'
endif
"""


class TcshComplete(ShellComplete):
    """tcsh, which gives what is typed so far in a variable, and takes words."""

    name = "tcsh"
    source_template = _TCSH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the one that is completed, and that one."""
        line = os.environ["COMMAND_LINE"]
        try:
            words = shlex.split(line)[1:]
        except ValueError:  # a quotation mark that is not closed yet
            words = line.split()[1:]
        begun = words.pop() if words and not line[-1:].isspace() else ""
        return words, begun

    def format_completion(self, item: CompletionItem) -> str:
        """Return a line for one that it may become."""
        return str(item.value)


def know_tcsh() -> None:
    """Let click know of tcsh."""
    add_completion_class(TcshComplete)


def script_for(shell: str) -> str:
    """Return what a shell reads; it asks the installed command for the words.

    Raises:
        OarLxcError: neither we nor click know the shell.
    """
    know_tcsh()
    kind = get_completion_class(shell)
    if kind is None:
        raise OarLxcError(f"click has no completion for {shell}")
    # Not bash's own source(): that starts a bash to look at its version.
    complete = kind(click.Command(NAME), {}, NAME, VARIABLE)
    text = ShellComplete.source(complete).strip()
    if shell == "zsh" and text.endswith(f"compdef {complete.func_name} {NAME};"):
        # zsh loads the file at the first Tab; click 8.1.3 answers only the next one.
        text += f'\n{complete.func_name} "$@"'
    return text + "\n"

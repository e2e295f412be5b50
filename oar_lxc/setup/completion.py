"""Shell completion of ``oar-lxc``: click's scripts, and one for tcsh, which click lacks."""

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
VARIABLE = "_OAR_LXC_COMPLETE"  # click's variable; it names the shell
_TCSH = """\
if ($?tcsh && $?prompt && -x /usr/bin/%(prog_name)s) then
    complete %(prog_name)s 'p,*,`env %(complete_var)s=tcsh_complete %(prog_name)s`,'
endif
"""


class TcshComplete(ShellComplete):
    """Completion for tcsh, which gives the typed line in a variable, and reads plain words."""

    name = "tcsh"
    source_template = _TCSH

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the words before the unfinished one, and the unfinished word."""
        line = os.environ["COMMAND_LINE"]
        try:
            words = shlex.split(line)[1:]
        except ValueError:  # a quotation mark that is not closed yet
            words = line.split()[1:]
        begun = words.pop() if words and not line[-1:].isspace() else ""
        return words, begun

    def format_completion(self, item: CompletionItem) -> str:
        """Return the line for one possible word."""
        return str(item.value)


def know_tcsh() -> None:
    """Register tcsh with click."""
    add_completion_class(TcshComplete)


def script_for(shell: str) -> str:
    """Return a shell's completion script, which asks the installed command for the words.

    Raises:
        OarLxcError: there is no completion for the shell.
    """
    know_tcsh()
    kind = get_completion_class(shell)
    if kind is None:
        raise OarLxcError(f"click has no completion for {shell}")
    # Not source() of click's class for bash: it starts a bash to read its version.
    complete = kind(click.Command(NAME), {}, NAME, VARIABLE)
    text = ShellComplete.source(complete).strip()
    if shell == "zsh" and text.endswith(f"compdef {complete.func_name} {NAME};"):
        # zsh loads the file at the first Tab; the script of click 8.1.3 works only at the next.
        text += f'\n{complete.func_name} "$@"'
    return text + "\n"

"""Which programs source files start by name, as far as reading tells."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import TypeGuard

# Calls whose first argument is an argv list, or the name of a program.
_LIST = {
    "run",
    "running",
    "Program",
    "Popen",
    "call",
    "check_call",
    "check_output",
    "in_own_namespaces",
    "unsynced",
    "dies_with_caller",
    "command",
    "start",
    "open_program",
    "execvp",
}
_NAME = {"which", "need", "execvp", "execv", "frontend", "ip"}
_PLAIN = re.compile(r"(?:/(?:usr/)?s?bin/)?([a-z][\w.+-]*)")
_SHELL_WORDS = (
    " if then else elif fi for while until do done case esac in set export local return exit cd "
    "echo printf test true false shift read trap eval exec umask wait kill command "
)


class _Text(ast.Constant):
    value: str


def of_python(text: str) -> Iterator[str]:
    """Yield programs that a Python source starts, those of sources inside it too."""
    nodes = list(ast.walk(ast.parse(text)))
    lists = dict(_lists(nodes))
    for node in nodes:
        if isinstance(node, ast.Call):
            yield from _of_call(node, lists)
        elif _may_be_source(node):
            try:
                yield from of_python(node.value)
            except SyntaxError:  # prose, or another language
                continue


def _may_be_source(node: ast.AST) -> TypeGuard[_Text]:
    return (
        isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and "import " in node.value
        and "\n" in node.value
    )


def _lists(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """Yield what is assigned to names, where it begins with a constant."""
    for node in nodes:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name):
                yield target.id, node.value


def _of_call(node: ast.Call, lists: dict[str, ast.expr]) -> Iterator[str]:
    function = node.func
    name = getattr(function, "attr", getattr(function, "id", ""))
    if not node.args:
        return
    first = node.args[0]
    if name == "on" and len(node.args) > 1:  # a machine, and what runs there
        first, name = node.args[1], "which"
    if name in _LIST:
        found = _first_word(first, lists)
    elif name in _NAME and isinstance(first, ast.Constant):
        found = first.value if name != "ip" else "ip"
    else:
        return
    if isinstance(found, str) and (match := _PLAIN.fullmatch(found)):
        yield match[1]


def _first_word(node: ast.expr, lists: dict[str, ast.expr], depth: int = 0) -> object:
    """Return the first word of an argv, where it is written down."""
    if depth > 4:
        return None
    if isinstance(node, ast.Name) and node.id in lists:
        return _first_word(lists[node.id], lists, depth + 1)
    if isinstance(node, ast.Starred):
        return _first_word(node.value, lists, depth + 1)
    if isinstance(node, ast.BinOp):
        return _first_word(node.left, lists, depth + 1)
    if isinstance(node, (ast.List, ast.Tuple)) and node.elts:
        head = node.elts[0]
        if isinstance(head, ast.Constant):
            return head.value
        return _first_word(head, lists, depth + 1) if isinstance(head, ast.Starred) else None
    return None


def of_shell(text: str) -> Iterator[str]:
    """Yield the first words of commands in a script of sh, and programs named by path."""
    for line in text.splitlines():
        line = re.sub(r"(^|\s)#.*", "", line)
        line = re.sub(r"'[^']*'|\"[^\"]*\"", "Q", line)
        for part in re.split(r"[|;&()`]+|\bthen\b|\bdo\b|\belse\b|\bif\b|\bwhile\b|!\s", line):
            words = [x for x in part.split() if not re.match(r"\w+=", x)]
            while words and words[0] in ("exec", "command", "then", "do", "-v"):
                words.pop(0)
            if words and f" {words[0]} " not in _SHELL_WORDS and (m := _PLAIN.fullmatch(words[0])):
                yield m[1]


def of_perl(text: str) -> Iterator[str]:
    """Yield the programs that a Perl source names by path."""
    yield from re.findall(r"/(?:usr/)?s?bin/([a-z][\w.+-]*)", text)


@cache
def of_file(path: Path) -> frozenset[str]:
    """Return the programs that a source file starts."""
    text = path.read_text()
    first = text.partition("\n")[0]
    if path.suffix == ".py" or "python" in first:
        return frozenset(of_python(text))
    if path.suffix == ".pl" or "perl" in first:
        return frozenset(of_perl(text))
    return frozenset(of_shell(text))

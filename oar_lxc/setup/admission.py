"""Steps about OAR's admission rules: they allow the job type ``lxc``, but not with every type.

The rules of OAR 2 are Perl in its database. Those of OAR 3 are Python: files on each machine from
which jobs are submitted, or in the database, too.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from oar_lxc.oar.paths import CONF
from oar_lxc.setup import database, oarconf
from oar_lxc.setup.files import backup_of, diff, edited_file, own_file
from oar_lxc.setup.oar_version import OarVersion, installed_version
from oar_lxc.setup.steps import SetupError, Step, all_of

RULES = CONF.parent / "admission_rules.d"
CHECKS_TYPES = "unknown job type"  # what the rule that checks job types says
REFUSAL_FILE = "17_oar_lxc.py"
# OAR runs the files of these names, and their copies in the directory, too.
_RULE_NAME = re.compile(r"\d+_.*")

_KNOWN = "jobs may be of type lxc"
_REFUSED = "jobs of type lxc with deploy or cosystem are refused"

_TYPES = re.compile(r"(?P<open>@types\s*=\s*\()(?P<list>.*?)(?P<close>\n?[ \t]*\)\s*;)", re.DOTALL)
_LXC = "qr/^lxc$/,"

REFUSAL_TITLE = "# oar-lxc: job types that cannot be combined with lxc"
_REASON = (
    "[ADMISSION RULE] Error: a job cannot be of type lxc and of type deploy or cosystem: "
    "deploy and cosystem jobs run on a frontend, and containers on the nodes of the job."
)
REFUSAL = f"""{REFUSAL_TITLE}
if (grep(/^lxc$/, @{{$type_list}}) and grep(/^(?:deploy|cosystem)(?:=|$)/, @{{$type_list}})) {{
    die("{_REASON}\\n");
}}
"""
# OAR 3 runs all rules as one text, in which each name that is assigned is a parameter of the job.
PYTHON_REFUSAL = f"""{REFUSAL_TITLE}
if "lxc" in (types or []) and any(re.match("(?:deploy|cosystem)(?:=|$)", t) for t in types):
    raise Exception(
        "{_REASON}"
    )
"""


@dataclass(frozen=True)
class _Language:
    """How rules are written: what adds the type ``lxc`` to one, and our own rule."""

    allow: Callable[[str], str]
    refusal: str


def allow_lxc(rule: str) -> str:
    """Add the type ``lxc`` to the rule that checks job types, and change nothing else in it.

    Raises:
        SetupError: the rule has no list of types in the form that OAR ships.
    """
    match = _TYPES.search(rule)
    if match is None:
        raise SetupError(
            "the admission rule that refuses unknown job types has no list `@types = (…);`: add "
            "the type lxc to it by hand (oaradmissionrules -m ID -e), then set up again"
        )
    if re.search(r"\blxc\b", match["list"]):
        return rule
    kept = match["list"].rstrip()
    comma = "" if not kept or kept.endswith(",") else ","
    end = match.end("list")
    return f"{rule[: match.start('list')]}{kept}{comma}\n    {_LXC}{rule[end:]}"


def allow_lxc_in_python(rule: str) -> str:
    """Add the type ``lxc`` to OAR 3's rule that checks job types: one line, below its pattern.

    Raises:
        SetupError: the rule has no pattern of types in the form that OAR ships.
    """
    by_hand = SetupError(
        "the admission rule that refuses unknown job types has no line `NAME = re.compile(…)`: "
        "let it know the type lxc by hand, then set up again"
    )
    try:
        nodes = _parse(rule)
    except (SyntaxError, ValueError):
        raise by_hand from None
    if any(isinstance(node, ast.Constant) and _admits_lxc(node.value) for node in nodes):
        return rule
    patterns = [node for node in nodes if isinstance(node, ast.Assign) and _compiles(node.value)]
    if len(patterns) != 1 or not isinstance(name := patterns[0].targets[-1], ast.Name):
        raise by_hand
    lines = rule.split("\n")
    first, last = patterns[0].lineno, patterns[0].end_lineno or patterns[0].lineno
    indent = lines[first - 1][: patterns[0].col_offset]
    lines.insert(last, f'{indent}{name.id} = re.compile({name.id}.pattern + "|^lxc$")')
    if indent.strip() or not _is_python(new := "\n".join(lines)):
        raise by_hand
    return new


def _parse(rule: str) -> list[ast.AST]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about "\w" without r, which Python takes all the same
        return list(ast.walk(ast.parse(rule)))


def _is_python(rule: str) -> bool:
    try:
        return bool(_parse(rule))
    except SyntaxError:
        return False


def _admits_lxc(pattern: object) -> bool:
    """Whether a constant of a rule is a pattern of which ``lxc`` is one."""
    try:
        return isinstance(pattern, str) and re.fullmatch(pattern, "lxc") is not None
    except re.error:
        return False


def _compiles(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile"


_PERL = _Language(allow_lxc, REFUSAL)
_PYTHON = _Language(allow_lxc_in_python, PYTHON_REFUSAL)


def _language(version: OarVersion) -> _Language:
    return _PYTHON if version.has_python_rules else _PERL


def rules_directory(conf: oarconf.OarConf, version: OarVersion) -> Path | None:
    """Return the directory of the admission rules; None if they are in the database."""
    if not version.has_python_rules or conf.get("ADMISSION_RULES_IN_FILES") != "yes":
        return None
    return Path(conf.get("ADMISSION_RULES_PATH") or RULES)


def server_steps() -> list[Step]:
    """Make the server's steps about admission rules.

    Where rules are files and the server has none, nobody submits jobs from it: nothing is to do.
    """
    return [
        all_of(_KNOWN, lambda: _known(frontend=False)),
        all_of(_REFUSED, lambda: _refused(frontend=False)),
    ]


def frontend_steps() -> list[Step]:
    """Make a frontend's steps about admission rules; those in the database are the server's."""
    return [
        all_of(_KNOWN, lambda: _known(frontend=True)),
        all_of(_REFUSED, lambda: _refused(frontend=True)),
    ]


def _known(frontend: bool) -> list[Step]:
    version = installed_version()
    allow = _language(version).allow
    directory = rules_directory(oarconf.read(), version)
    if directory is None:
        return [] if frontend else [_known_in_database(allow)]
    if not directory.is_dir():
        if not frontend:
            return []
        raise SetupError(
            f"there is no {directory}, from which OAR takes its admission rules: copy there what "
            "OAR's sources have in etc/oar/admission_rules.d, then set up again"
        )
    rules = [path for path in sorted(directory.iterdir()) if _RULE_NAME.match(path.name)]
    return [
        # The copy is kept elsewhere, as OAR would run it beside the rule.
        edited_file(_KNOWN, rule, allow, "oar-user", backup_of(CONF.parent / rule.name))
        for rule in rules
        if CHECKS_TYPES in rule.read_text("utf-8", "surrogateescape")
    ]


def _refused(frontend: bool) -> list[Step]:
    version = installed_version()
    refusal = _language(version).refusal
    directory = rules_directory(oarconf.read(), version)
    if directory is None:
        return [] if frontend else [_refused_in_database(refusal)]
    if not directory.is_dir():
        return []
    return [own_file(_REFUSED, directory / REFUSAL_FILE, refusal)]


def _known_in_database(allow: Callable[[str], str]) -> Step:
    def changes() -> list[tuple[str, str, str]]:
        rows = database.connect().rows(
            f"SELECT id, rule FROM admission_rules WHERE rule LIKE '%{CHECKS_TYPES}%' ORDER BY id"
        )
        edited = [(str(row["id"]), row["rule"], allow(row["rule"])) for row in rows]
        return [change for change in edited if change[1] != change[2]]

    def pending() -> str | None:
        diffs = [diff(Path(f"admission rule {i}"), old, new) for i, old, new in changes()]
        return "".join(d for d in diffs if d) or None

    def apply() -> None:
        db = database.connect()
        for rule_id, _, new in changes():
            db.execute(
                "UPDATE admission_rules SET rule = :'rule' WHERE id = :'id'::integer",
                id=rule_id,
                rule=new,
            )

    return Step(_KNOWN, pending, apply)


def _refused_in_database(refusal: str) -> Step:
    query = f"SELECT id, rule FROM admission_rules WHERE rule LIKE '{REFUSAL_TITLE}%'"

    def pending() -> str | None:
        rows = database.connect().rows(query)
        if [row["rule"] for row in rows] == [refusal]:
            return None
        return diff(Path("admission rule"), rows[0]["rule"] if rows else "", refusal)

    def apply() -> None:
        # 17: after the check of types, which has priority 16.
        database.connect().execute(
            f"""BEGIN;
            DELETE FROM admission_rules WHERE rule LIKE '{REFUSAL_TITLE}%';
            INSERT INTO admission_rules (priority, enabled, rule) VALUES (17, 'YES', :'rule');
            COMMIT;""",
            rule=refusal,
        )

    return Step(_REFUSED, pending, apply)

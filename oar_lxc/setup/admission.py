"""Steps about OAR's admission rules: they allow the job type ``lxc``, but not with every type."""

from __future__ import annotations

import re
from pathlib import Path

from oar_lxc.setup import database
from oar_lxc.setup.files import diff
from oar_lxc.setup.steps import SetupError, Step

_TYPES = re.compile(r"(?P<open>@types\s*=\s*\()(?P<list>.*?)(?P<close>\n?[ \t]*\)\s*;)", re.DOTALL)
_LXC = "qr/^lxc$/,"

REFUSAL_TITLE = "# oar-lxc: job types that cannot be combined with lxc"
REFUSAL = f"""{REFUSAL_TITLE}
if (grep(/^lxc$/, @{{$type_list}}) and grep(/^(?:deploy|cosystem)(?:=|$)/, @{{$type_list}})) {{
    die("[ADMISSION RULE] Error: a job cannot be of type lxc and of type deploy or cosystem: \
deploy and cosystem jobs run on a frontend, and containers on the nodes of the job.\\n");
}}
"""


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


def type_lxc_is_known() -> Step:
    """Make the step after which jobs may be of type ``lxc``."""

    def changes() -> list[tuple[str, str, str]]:
        rows = database.connect().rows(
            "SELECT id, rule FROM admission_rules WHERE rule LIKE '%unknown job type%' ORDER BY id"
        )
        edited = [(str(row["id"]), row["rule"], allow_lxc(row["rule"])) for row in rows]
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

    return Step("jobs may be of type lxc", pending, apply)


def bad_mixes_are_refused() -> Step:
    """Make the step after which ``-t lxc`` with ``-t deploy`` or ``-t cosystem`` is refused."""
    query = f"SELECT id, rule FROM admission_rules WHERE rule LIKE '{REFUSAL_TITLE}%'"

    def pending() -> str | None:
        rows = database.connect().rows(query)
        if [row["rule"] for row in rows] == [REFUSAL]:
            return None
        return diff(Path("admission rule"), rows[0]["rule"] if rows else "", REFUSAL)

    def apply() -> None:
        # 17: after the check of types, which has priority 16.
        database.connect().execute(
            f"""BEGIN;
            DELETE FROM admission_rules WHERE rule LIKE '{REFUSAL_TITLE}%';
            INSERT INTO admission_rules (priority, enabled, rule) VALUES (17, 'YES', :'rule');
            COMMIT;""",
            rule=REFUSAL,
        )

    return Step("jobs of type lxc with deploy or cosystem are refused", pending, apply)

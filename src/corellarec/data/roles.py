"""Which column of a table is what: as told, by its name, else by its values."""

from collections.abc import Collection, Mapping
from typing import Literal

from corellarec.base.errors import DataError
from corellarec.config.data import IMPLICIT
from corellarec.data import guess
from corellarec.data.sample import Sample

NO_LABEL = ("label", IMPLICIT)  # of a log without negatives
LOG_ROLES = ("user", "item", "time", "rating", "label")


def log_roles(log: Sample, others: list[Sample], roles: Mapping[str, str]) -> dict[str, str]:
    """The log's columns by role, told by names, and by values where names do not tell.

    Raises:
        DataError: If a column that was named is not there, or some cannot be told: all at once.
    """
    columns = log.rows.columns
    for role in (*LOG_ROLES, "split"):
        if (told := roles.get(role)) and told not in columns and (role, told) != NO_LABEL:
            raise DataError(
                f"{log.path}: no column {told!r} for the {role}; found: {', '.join(columns)}"
            )
    found = {role: _find(log, role, roles) for role in ("user", "item", "time")}

    def unused() -> list[str]:
        taken = {*found.values(), *roles.values()}
        return [name for name in columns if name not in taken]

    found["time"] = found["time"] or guess.time_column(log.rows, unused())
    kind, value = _value(log, roles, unused())
    found[kind] = value
    title = title_of(log, roles, [name for name in found.values() if name])
    ids = guess.id_columns(log.rows, [name for name in unused() if name != title])
    tables = {True: [], False: []}  # with titles, and without
    for table in others:
        titled = title_of(table, roles, ()) is not None
        tables[titled].append(table)
    found["item"] = found["item"] or _by_table(log, ids, tables[True])
    if not found["item"] and title in columns:
        found["item"] = guess.item_by_title(log.rows, ids, str(title))
    ids = [name for name in ids if name != found["item"]]
    found["user"] = found["user"] or _by_table(log, ids, tables[False])
    found["user"] = found["user"] or guess.user_column(log.rows, ids)
    missing = {role: f"the {role}" for role in ("user", "item", "time") if not found[role]}
    if value is None:
        missing |= {"rating": "a rating", "label": "a label"}
    if not tables[True] and title is None:
        missing["title"] = "the items' title, which the language model reads (or give its table)"
    if missing:
        raise log.lacks(" or ".join(missing.values()), say_which(*missing))
    if split := _find(log, "split", roles):
        found["split"] = split
    return {role: name for role, name in found.items() if name}


def log_score(table: Sample, roles: Mapping[str, str]) -> int:
    """How much of a log a table has."""
    columns = table.rows.columns
    found = {role: _find(table, role, roles) for role in LOG_ROLES}
    rated = found["rating"] or found["label"]
    if not rated and (value := _value(table, roles, columns)[1]) in columns:
        rated = value
    timed = found["time"] or guess.time_column(table.rows, columns)
    return sum(name is not None for name in (found["user"], found["item"], timed, rated))


def _find(table: Sample, role: str, roles: Mapping[str, str]) -> str | None:
    """The column of a role: as told, else by its name."""
    columns = table.rows.columns
    if told := roles.get(role):
        return told if told in columns else None
    return guess.by_name(columns, role) if table.named else None


def _by_table(log: Sample, ids: list[str], tables: list[Sample]) -> str | None:
    """The one of the log's columns whose ids another table lists best."""
    shares = {
        name: max(
            (guess.key_column(t.rows, t.rows.columns, log.rows[name])[1] for t in tables),
            default=0.0,
        )
        for name in ids
    }
    best = max(shares, key=lambda name: shares[name], default=None)
    return best if best and shares[best] > 0 else None


def _value(
    log: Sample, roles: Mapping[str, str], unused: list[str]
) -> tuple[Literal["rating", "label"], str | None]:
    """The column of a rating, or of a label; ``implicit`` where nothing looks like either."""
    for kind in ("rating", "label"):
        if kind in roles:
            return kind, roles[kind]
    for kind in ("rating", "label"):
        if name := _find(log, kind, {}):
            return ("label" if guess.is_label(log.rows[name]) else kind), name
    labels = guess.label_columns(log.rows, unused)
    if labels:
        return "label", labels[0] if len(labels) == 1 else None
    ratings = guess.rating_columns(log.rows, unused, log.settings.get("decimal", "."))
    if not ratings:
        return NO_LABEL
    return "rating", ratings[0] if len(ratings) == 1 else None


def title_of(table: Sample, roles: Mapping[str, str], used: Collection[str]) -> str | None:
    """The column of the title, or a template of columns that was given."""
    columns = table.rows.columns
    if told := roles.get("title"):
        return told if told in columns or "{" in told else None
    rest = [name for name in columns if name not in used]  # an id is no title
    found = None
    if table.named:
        worded = [name for name in rest if guess.has_words(table.rows[name])]
        found = guess.by_name(worded, "title") or guess.by_name(rest, "title")
    return found or guess.title_column(table.rows, rest)


def say_which(*roles: str) -> str:
    """How to say which columns have these roles, for messages."""
    options = ", ".join(f"--{role} COLUMN" for role in roles)
    arguments = ", ".join(f'{role}="COLUMN"' for role in roles)
    return f"say which column it is with {options} (in Python {arguments})"

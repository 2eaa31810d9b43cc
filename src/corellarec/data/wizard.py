"""First settings for your own tables, from the names of their columns and their first rows."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import check_plain, readable
from corellarec.base.inputs import check_file
from corellarec.config.data import IMPLICIT
from corellarec.data import guess
from corellarec.data.features import reserved
from corellarec.data.levels import halving_threshold
from corellarec.data.raw import Folder
from corellarec.data.roles import log_roles, log_score, say_which, title_of
from corellarec.data.sample import SAMPLE_ROWS, Sample, is_table, look
from corellarec.data.sources.recognise import READERS, Layout, layout_of

SHOWN = 3  # values of a column
EACH_ROW = "no rating and no label: each row is what the user did, and negatives are drawn for it"


@dataclass(frozen=True)
class Use:
    """What a column is used for.

    Args:
        table: Name of the file.
        column: Name of the column.
        use: ``user``, ``title``, ``numeric`` ... or ``left out``.
        values: Some of its values.
    """

    table: str
    column: str
    use: str
    values: tuple[str, ...]


@dataclass(frozen=True)
class Proposal:
    """Settings for tables of your own.

    Args:
        settings: The tree of settings, as :func:`corellarec.config.parse_config` takes it and a
            TOML file holds it: ``{"data": {"interactions": {...}, "items": {...}, ...}}``.
        guesses: What was guessed, a line of text each.
        uses: What each column is used for.
        template: Name of the template of the LLM's text that fits.
    """

    settings: dict[str, Any]
    guesses: list[str]
    uses: list[Use] = field(default_factory=list)
    template: str = "items-liked"


def propose_settings(
    paths: Iterable[Path],
    roles: Mapping[str, str],
    layout: Layout | Literal["tables"] | None = None,
) -> Proposal:
    """Settings for the tables at ``paths``, or for a directory or zip in a known layout.

    Which table is the log, and which hold items and users, is told by their columns, and by names
    such as ``interactions.parquet``, ``items.csv``, ``users.jsonl``. Columns are told by their
    names, else by their values, and features by their types and first values.

    Args:
        paths: Files, or directories whose tables are taken.
        roles: Columns that are known: ``user``, ``item``, ``time``, ``rating``, ``label`` and
            ``split`` of the log; ``title`` of the items, or a template such as
            ``{name} by {brand}``; ``items.id`` and ``users.id``, where these tables call the id
            otherwise than the log.
        layout: What the files are; by default a known layout if ``paths`` is one and no column is
            given in ``roles``, else tables.

    Raises:
        DataError: If there are no tables, or a column that is needed cannot be told.
    """
    paths = list(paths)
    if layout != "tables" and (known := _known_layout(paths, roles, layout)):
        return known
    tables = [look(path) for path in _files(paths)]
    log = max(
        tables,
        key=lambda table: (
            table.name == "interactions",
            log_score(table, roles),
            table.rows.height,
        ),
    )
    found = log_roles(log, [table for table in tables if table is not log], roles)
    column = found.get("rating")
    guesses = [f"interactions: {log.path} ({', '.join(f'{k} = {v}' for k, v in found.items())})"]
    role_of = {name: role for role, name in found.items()}
    uses = [_use(log, name, role_of[name]) for name in log.rows.columns if name in role_of]
    data: dict[str, Any] = {"interactions": {**log.settings, **found}}
    form, either = guess.time_format(log.rows[found["time"]])
    if form:
        data["interactions"]["time_format"] = form
        order = "month" if form.startswith("%m") else "day"
        guesses.append(
            f"times are read with the {order} first ({form})"
            + (": the first rows would also allow the other order" if either else "")
        )
    implicit = found.get("label") == IMPLICIT
    if implicit:
        guesses.append(EACH_ROW)
        if name := guess.event_column(log.rows, set(log.rows.columns) - set(found.values())):
            weights = guess.event_weights(log.rows[name])
            data["interactions"] |= {"event": name, "event_weights": weights}
            uses.append(_use(log, name, "kind of event"))
            guesses.append(f"weights of kinds of events in training: {weights}")
            found["event"] = name
    if column:
        data = {"positive_rating": _threshold(log, column, guesses), **data}
    others = [table for table in tables if table is not log]
    items = _table_of("items", log, found["item"], others, roles)
    if items:
        data["items"] = _features("items", *items, roles, guesses, uses)
    else:
        used = set(found.values())
        differ = guess.differing(log.rows, found["item"])
        data["items"] = _features(
            "items", log, None, roles, guesses, uses, used=used, left_out=differ
        )
    others = [table for table in others if not items or table is not items[0]]
    if users := _table_of("users", log, found["user"], others, roles):
        data["users"] = _features("users", *users, roles, guesses, uses)
    noun = guess.noun(items[0].name if items else log.name)
    template = "items-taken" if implicit else f"{noun}-{'rated' if column else 'liked'}"
    return Proposal({"data": data}, guesses, uses, template)


def _known_layout(
    paths: list[Path], roles: Mapping[str, str], layout: Layout | None
) -> Proposal | None:
    """Settings for a directory or zip in a known layout; None if it is none."""
    is_folder = len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() == ".zip")
    if not is_folder and layout:
        raise DataError(f"the layout {layout} is that of one directory or zip file: give its path")
    if not is_folder or (roles and not layout):
        return None
    folder = Folder(paths[0])
    known = layout or layout_of(folder)
    if known is None:
        return None
    raw = READERS[known][1](folder)
    guesses = [f"{paths[0]} is in the layout {known}, which needs no more settings"]
    data: dict[str, Any] = {"path": str(paths[0])} | ({"layout": layout} if layout else {})
    if not raw.labelled:
        rows = raw.files[0].fast.select(raw.files[0].value.parse(pl.col("value")).alias("value"))
        with readable(raw.files[0].name):
            sample = rows.head(SAMPLE_ROWS).collect()["value"].drop_nulls()
        if len(sample):
            data["positive_rating"] = _halve(sample, guesses)
    noun = "movies" if known == "movielens" else "items"
    template = f"{noun}-{'liked' if raw.labelled else 'rated'}"
    return Proposal({"data": data}, guesses, template=template)


def _files(paths: Iterable[Path]) -> list[Path]:
    found = []
    for path in paths:
        if not path.is_dir():
            check_file(path)
        with readable(path):
            found += sorted(path.iterdir()) if path.is_dir() else [path]
    tables = [path for path in found if path.is_file() and is_table(path)]
    if not tables:
        raise DataError(
            "no tables found: files end in .csv, .tsv, .dat, .txt, .parquet or .jsonl, before .gz "
            "or .zst; unpack a zip file first"
        )
    return tables


def _threshold(log: Sample, column: str, guesses: list[str]) -> float:
    """The rating that about half of the rows reach."""
    check_plain(log.rows.schema[column], column, str(log.path))
    ratings = guess.numbers_of(log.rows[column], log.settings.get("decimal", ".")).drop_nulls()
    if not len(ratings):
        raise DataError(f"{log.path}: column {column!r} holds no numbers: is it the label?")
    return _halve(ratings, guesses)


def _halve(ratings: pl.Series, guesses: list[str]) -> float:
    best, share = halving_threshold(ratings.to_numpy())
    guesses.append(f"a rating of {best:g} or more is positive: {share:.0%} of the first rows")
    return best


def _table_of(
    side: Literal["items", "users"],
    log: Sample,
    key: str,
    tables: list[Sample],
    roles: Mapping[str, str],
) -> tuple[Sample, str] | None:
    """The table of items or users and its column of ids; ``key`` is what the log calls it."""
    one, other = side.removesuffix("s"), "users" if side == "items" else "items"

    def id_of(table: Sample) -> str | None:
        columns = [name for name, kind in table.rows.schema.items() if kind != pl.Boolean]
        if told := roles.get(f"{side}.id"):
            return told if told in columns else None
        if table.named and log.named and key in columns:
            return key
        if table.named:
            plain = {name.lower().replace("_", ""): name for name in columns}
            sure = (f"{one}id", one, "id") if one in table.name else (f"{one}id", one)
            named = next((plain[name] for name in sure if name in plain), None)
            if named or (named := guess.by_name(columns, one)):
                return named
        return guess.key_column(table.rows, columns, log.rows[key])[0]

    def rank(table: Sample) -> tuple[bool, bool, bool]:
        titled = side == "items" and title_of(table, roles, ()) is not None
        return table.name == side, one in table.name, titled

    for table in sorted(tables, key=rank, reverse=True):
        if table.name != other and (name := id_of(table)):
            return table, name
    if named := next((table for table in tables if table.name == side), None):
        raise named.lacks(
            f"the {one}'s id",
            f'call it {key!r} as in the log, or say which it is with "{side}.id"',
        )
    return None


def _use(table: Sample, column: str, use: str) -> Use:
    known = table.rows[column].drop_nulls()
    text = (str(value) for value in known.unique(maintain_order=True).head(SHOWN))
    return Use(table.path.name, column, use, tuple(text))


def _features(
    side: Literal["items", "users"],
    table: Sample,
    key: str | None,
    roles: Mapping[str, str],
    guesses: list[str],
    uses: list[Use],
    used: Collection[str] = (),
    left_out: Collection[str] = (),
) -> dict[str, Any]:
    """The section of items or users; without a ``key`` the table is the log."""
    section: dict[str, Any] = {**table.settings, "id": key} if key else {}
    used = {*used, *([key] if key else [])}
    if key:
        uses.append(_use(table, key, f"{side.removesuffix('s')}'s id"))
    columns = table.rows.columns
    if side == "items":
        title = title_of(table, roles, used)
        if title is None:
            raise table.lacks("the title, which the language model reads", say_which("title"))
        section["title"] = title
        used.add(title)
        if title in columns:
            uses.append(_use(table, title, "title"))
    found: dict[str, Any] = {"categorical": [], "multi": {}, "numeric": []}
    unused = []
    for name in columns:
        if name in used:
            continue
        decimal = table.settings.get("decimal", ".")
        kind, separator = guess.feature_kind(table.rows[name].drop_nulls(), decimal)
        if name in reserved(columns) or name in left_out:
            kind = None
        uses.append(_use(table, name, kind or "left out"))
        if kind is None:
            unused.append(name)
        elif kind == "multi":
            found["multi"][name] = separator
        else:
            found[kind].append(name)
    section |= {kind: names for kind, names in found.items() if names}
    listed = "; ".join(f"{kind}: {', '.join(names)}" for kind, names in found.items() if names)
    title = f"title = {section['title']}; " if "title" in section else ""
    guesses.append(
        f"{side}: {table.path} ({title}{listed or 'no features'}"
        + (f"; left out: {', '.join(unused)})" if unused else ")")
    )
    return section

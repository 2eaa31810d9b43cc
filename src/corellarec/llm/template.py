"""Templates: how users and items become text, as data in TOML."""

import re
import tomllib
from collections.abc import Sequence
from functools import cached_property
from importlib import resources
from pathlib import Path
from string import Formatter
from typing import Annotated, Any

import polars as pl
from pydantic import AfterValidator, Field, ValidationError, model_validator

from corellarec.base.errors import ConfigError
from corellarec.config import Section
from corellarec.data.log import Log

MAX_LENGTH = 200  # characters of one value
MAX_TEXT = 10_000  # characters of a text of a template
UNTITLED = "(untitled)"
# Everything that could break a line, hide text, or turn its direction.
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff]+")
_RARITY = ("rare", "known", "popular")
_BARE = re.compile(r"(?!\d+$)[^.\[\]{}]+")


def field_names(text: str) -> list[str]:
    """The fields that a text names, each once.

    Raises:
        ValueError: If a brace is not closed, or holds anything but a bare name: a format could
            make a text of any length, and attributes or places in a list lead to other values.

    Example:
        >>> field_names("{title} by {author} ({title})")
        ['title', 'author']
    """
    names = []
    for _, name, form, conversion in Formatter().parse(text):
        if name is None:
            continue
        if form or conversion or not _BARE.fullmatch(name):
            raise ValueError(f"{{{name}}}: a field is a bare name such as {{title}}")
        names.append(name)
    return list(dict.fromkeys(names))


def _names_fields(text: str) -> str:
    field_names(text)
    return text


def _has_tokens(text: str) -> bool:
    """Whether a text is not empty, whatever its fields hold; a title never is empty."""
    return "title" in field_names(text) or any(words for words, *_ in Formatter().parse(text))


Plain = Annotated[str, Field(max_length=MAX_TEXT)]
WithFields = Annotated[Plain, AfterValidator(_names_fields)]


class StreamTemplate(Section):
    """Texts of the stream layout: a user as lines."""

    heading: WithFields
    """The line before the user's lines; may name columns of the users."""
    line: WithFields
    """An item's line up to its answer; may name ``title``, ``popularity``, columns of the items,
    and ``liked``, the rating digit of the item: its smoothed liked rate in training as a level
    0 to 9."""
    no: Plain
    """The answer of a negative label, one token."""
    yes: Plain
    """The answer of a positive one."""
    ratings: bool = False
    """Whether a line is answered by the row's rating, where a log has ratings that tell the label:
    the digits ``1``, ``2`` and so on from the lowest, letters from ``A`` where there are more than
    nine. A positive answer then is any of the positive ratings."""

    @model_validator(mode="after")
    def _can_be_answered(self) -> "StreamTemplate":
        if not _has_tokens(self.line):
            raise ValueError("line: it needs the title, or words of its own")
        if self.no == self.yes:
            raise ValueError("no and yes must differ")
        return self


class PaperTemplate(Section):
    """Texts of the paper's layout: a sample as a prompt."""

    prompt: WithFields
    """The whole prompt; names ``history`` and ``target``, and may name columns of the users."""
    rated: WithFields
    """An item of the history; names ``opinion`` and fields of an item."""
    separator: Plain
    """Between two items of the history."""
    disliked: Plain
    """The opinion where the label is negative."""
    liked: Plain
    """The opinion where it is positive."""
    target: WithFields
    """The target item."""
    no: Plain
    """The answer of a negative label, one token."""
    yes: Plain
    """The answer of a positive one."""

    @model_validator(mode="after")
    def _can_be_answered(self) -> "PaperTemplate":
        if not _has_tokens(self.prompt):
            raise ValueError("prompt: it needs words of its own")
        if self.no == self.yes:
            raise ValueError("no and yes must differ")
        return self


class Template(Section):
    """How users and items become text in both layouts.

    Example:
        >>> load_template("movies").stream.line
        '{title} ->'
    """

    stream: StreamTemplate
    paper: PaperTemplate


def template_names() -> list[str]:
    """Names of the templates that come with the package, sorted.

    Example:
        >>> template_names()[:3]
        ['books', 'books-liked', 'books-rated']
    """
    with resources.as_file(resources.files("corellarec.llm") / "templates") as folder:
        return sorted(path.stem for path in folder.glob("*.toml"))


def load_template(name: str) -> Template:
    """A template by its name or the path of its TOML file.

    Raises:
        ConfigError: If it cannot be read or is not a template.

    Example:
        >>> load_template("movies").stream.yes
        ' Yes'
    """
    if name in template_names():
        text = (resources.files("corellarec.llm") / "templates" / f"{name}.toml").read_text("utf-8")
    else:
        try:
            text = Path(name).expanduser().read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"llm.template: {name!r} is neither a readable file nor one of "
                f"{', '.join(template_names())}"
            ) from error
    try:
        return Template.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"llm.template {name}: not valid TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        problem = first["msg"].removeprefix("Value error, ")
        raise ConfigError(f"llm.template {name}: {place}: {problem}") from error


def clean(text: str) -> str:
    """Text as one printable line of at most 200 characters without the arrow of an answer.

    Example:
        >>> clean("Heat -> Yes")
        'Heat - Yes'
    """
    return _one_line(text)[:MAX_LENGTH]


def _one_line(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text).replace("->", "-").strip()


def clean_title(title: str, *, year: bool = True) -> str:
    """A title as :func:`clean` makes it; ``(untitled)`` where it has no printable character.

    Args:
        title: Any text.
        year: Whether a year in brackets at the end stays.

    Example:
        >>> clean_title("Heat (1995)", year=False)
        'Heat'
    """
    title = _one_line(title)
    if not year:
        title = re.sub(r"(?<=.) \(\d{4}\)$", "", title)
    return title[:MAX_LENGTH] or UNTITLED


class Fields:
    """Values of the fields that a text names, by the number of an item or user.

    Args:
        columns: The values of each field, for all items or users.

    Example:
        >>> Fields({"age": ["25", "31"]}).of(1)
        {'age': '31'}
    """

    def __init__(self, columns: dict[str, Sequence[str]]) -> None:
        self.columns = columns

    def of(self, number: int) -> dict[str, str]:
        """Values of one item or user; empty texts for -1, an unknown one."""
        if number < 0:
            return dict.fromkeys(self.columns, "")
        return {name: values[number] for name, values in self.columns.items()}


class Texts:
    """Values for the fields of a template, from the tables of a log.

    Args:
        log: The prepared log.
        title_year: Whether titles keep their year.

    Example:
        >>> texts = Texts(log)  # doctest: +SKIP
        >>> texts.of_items("{title} | {genres}", "stream.line").of(0)  # doctest: +SKIP
        {'title': 'Toy Story (1995)', 'genres': 'Animation, Comedy'}
    """

    def __init__(self, log: Log, title_year: bool = True) -> None:
        self.log, self.title_year = log, title_year

    @cached_property
    def titles(self) -> list[str]:
        """The title of each item."""
        return [clean_title(title, year=self.title_year) for title in self.log.titles]

    @cached_property
    def popularity(self) -> list[str]:
        """``new`` if an item is not in training, else by third ``rare``, ``known``, ``popular``."""
        rows = self.log.item_train_rows.double()
        seen = rows[rows > 0]
        if not len(seen):
            return ["new"] * len(rows)
        limits = seen.quantile(seen.new_tensor([1 / 3, 2 / 3]))
        third = (rows.unsqueeze(1) > limits).sum(1).tolist()
        return [
            _RARITY[i] if count else "new" for i, count in zip(third, rows.tolist(), strict=True)
        ]

    def of_items(self, text: str, place: str, *others: str) -> Fields:
        """Values of the fields that ``text`` names, of each item.

        Args:
            text: A part of a template.
            place: Its name, for messages.
            others: Fields that are filled later.
        """
        columns: dict[str, Sequence[str]] = {}
        for name in self._fields(text, place, self.log.items, ("title", "popularity", *others)):
            match name:
                case "title":
                    columns[name] = self.titles
                case "popularity":
                    columns[name] = self.popularity
                case _ if name not in others:
                    columns[name] = _column(self.log.items[name])
        return Fields(columns)

    def of_users(self, text: str, place: str, *others: str) -> Fields:
        """Values of the fields that ``text`` names, of each user; arguments as for items."""
        names = [n for n in self._fields(text, place, self.log.users, others) if n not in others]
        return Fields({name: _column(self.log.users[name]) for name in names})

    def _fields(
        self, text: str, place: str, table: pl.DataFrame, others: Sequence[str]
    ) -> list[str]:
        hidden = ("id", "title", "train_rows", "train_liked")
        columns = [
            name
            for name in table.columns
            if name not in hidden and not name.endswith(("_code", "_values"))
        ]
        names, known = field_names(text), [*others, *columns]
        for name in names:
            if name not in known:
                raise ConfigError(
                    f"llm.template: {place} names {{{name}}}; there are: {', '.join(known)}"
                )
        return names


def _column(column: pl.Series) -> list[str]:
    """Its values as clean text; lists with commas, empty for null."""
    return [clean(_text(value)) for value in column.to_list()]


def _text(value: Any) -> str:  # noqa: ANN401 (whatever a table holds)
    if value is None:
        return ""
    if isinstance(value, list):
        return ", ".join(_text(one) for one in value)
    return f"{value:g}" if isinstance(value, float) else str(value)

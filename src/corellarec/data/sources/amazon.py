"""Amazon reviews of one category, in the files of 2014, 2018 and 2023.

Sources: https://jmcauley.ucsd.edu/data/amazon (2014), https://nijianmo.github.io/amazon (2018),
https://amazon-reviews-2023.github.io (2023)
"""

import html
import json
import re
from io import BytesIO
from pathlib import Path

import polars as pl

from corellarec.base.errors import DataError
from corellarec.base.frames import DAMAGE, readable
from corellarec.data.raw import NO_USERS, Field, Folder, RawLog
from corellarec.data.row_files import (
    RowFile,
    delimited_file,
    header_of,
    json_file,
    parse_object,
    read_lines,
)

META = re.compile(r"(?:^|/)meta_(?P<category>[A-Za-z_]+)\.jsonl?(?:\.gz)?$")
# Words in front of, or behind, the category in the names of the interactions' files, best first:
# whole ratings, then the 5-core; ratings alone before reviews, for they are a tenth of the size.
LAYOUTS = ("ratings_{}.csv", "{}.csv", "{}.jsonl", "{}.json", "reviews_{}.json",
           "{}_5.json", "reviews_{}_5.json")  # fmt: skip
KEYS_2023 = {"user": "user_id", "item": "parent_asin", "value": "rating", "time": "timestamp"}
KEYS_2014 = {"user": "reviewerID", "item": "asin", "value": "overall", "time": "unixReviewTime"}
META_KEYS = ("parent_asin", "asin", "title", "author", "brand", "store", "categories", "category",
             "main_category")  # fmt: skip
ITEM_FIELDS = (Field("author"), Field("category", "multi"))
MOST_CATEGORIES = 5
ASIN_LENGTH = 10


def is_amazon(folder: Folder) -> bool:
    """Whether a folder holds a category's ``meta_*`` file and its ratings or reviews."""
    return bool(_pairs(folder))


def read_amazon(folder: Folder) -> RawLog:
    """Read one category from its ratings or reviews and its metadata; there are no user features.

    Titles and names have their HTML entities resolved. A title that is a piece of a script, as
    some of 2018 are, counts as none.

    Raises:
        DataError: If the folder holds several categories, or a file cannot be used.
    """
    pairs = _pairs(folder)
    if not pairs:
        raise DataError(
            f"{folder.path} has no meta_CATEGORY.json.gz with its ratings or reviews, as Amazon's"
        )
    if len(pairs) > 1:
        raise DataError(
            f"{folder.path} holds several categories ({', '.join(sorted(pairs))}): "
            "keep one in a folder"
        )
    ((file, meta),) = pairs.values()
    name = file.rpartition("/")[2]
    source = folder.source(file)
    if ".csv" in name:
        rows = _ratings(source, name)
    else:
        keys = KEYS_2023 if ".jsonl" in name else KEYS_2014
        rows = json_file(source, name=name, columns=keys)
    return RawLog(
        files=(rows,),
        users=NO_USERS,
        items=_items(folder.source(meta), meta.rpartition("/")[2]),
        user_fields=(),
        item_fields=ITEM_FIELDS,
        time_unit="auto",
    )


def _pairs(folder: Folder) -> dict[str, tuple[str, str]]:
    """The file of interactions and of metadata of each category."""
    pairs = {}
    for meta in folder.names:
        if found := META.search(meta):
            category = found["category"]
            names = [layout.format(category) + end for layout in LAYOUTS for end in ("", ".gz")]
            file = next((path for name in names if (path := folder.find(name))), None)
            if file:
                pairs[category] = (file, meta)
    return pairs


def _ratings(source: Path | BytesIO, name: str) -> RowFile:
    """Ratings without reviews: with a header in 2023, without one and in two orders before."""
    with readable(name):
        first = header_of(source, ",")
    if "parent_asin" in first:
        return delimited_file(source, name=name, separator=",", columns=KEYS_2023, quoted=False)
    if len(first) != 4:
        raise DataError(f"{name}, line 1: {len(first)} values where 4 are expected")
    # 2014 writes user,item,...; 2018 item,user,...; an ASIN has ten characters, a user more.
    item = 0 if len(first[0]) == ASIN_LENGTH and len(first[1]) != ASIN_LENGTH else 1
    return delimited_file(
        source,
        name=name,
        separator=",",
        columns={"user": 1 - item, "item": item, "value": 2, "time": 3},
        header=("item", "user", "rating", "timestamp")
        if item == 0
        else ("user", "item", "rating", "timestamp"),
        quoted=False,
    )


def _items(source: Path | BytesIO, name: str) -> pl.DataFrame:
    """``id``, ``title``, ``author``, ``category``, one row an item."""
    with readable(name):
        try:  # values that are not text come as JSON
            table = pl.scan_ndjson(source, schema=dict.fromkeys(META_KEYS, pl.String))
            table = table.collect(engine="streaming")
        except DAMAGE:  # 2014's lines are Python dictionaries
            found = (parse_object(line) for line in read_lines(source))
            texts = ([_as_text(facts.get(key)) for key in META_KEYS] for facts in found if facts)
            table = pl.DataFrame(texts, schema=dict.fromkeys(META_KEYS, pl.String), orient="row")
    title, author = pl.col("title").str.strip_chars(), pl.coalesce("author", "brand", "store")
    script = title.str.contains("getTime()", literal=True) | title.str.starts_with("var ")
    table = table.select(
        id=pl.coalesce("parent_asin", "asin"),
        title=pl.when(~script & (title != "")).then(title),
        author=pl.when(author.str.starts_with("{"))
        .then(author.str.json_path_match("$.name"))
        .otherwise(author)
        .str.replace(r"^Visit Amazon's (.*) Page$", "$1")
        .str.strip_chars()
        .replace("", None),
        category=pl.coalesce("categories", "category", "main_category"),
    ).drop_nulls("id")
    if table.is_empty():
        raise DataError(f"{name}: no line holds an item with an id (asin or parent_asin)")
    table = table.with_columns(
        _resolve(table["title"]), _resolve(table["author"]), _categories(table["category"])
    )
    if table["id"].n_unique() < table.height:  # 2018 lists some items twice
        table = table.sort("id", "title", nulls_last=True).unique("id", keep="first")
    return table


def _categories(texts: pl.Series) -> pl.Series:
    """Lists of categories from JSON lists, flat or nested, or single names; many are alike."""
    known = texts.cast(pl.Categorical(pl.Categories.random()))
    distinct = known.cat.get_categories().alias("category").to_frame()
    text, quoted = pl.col("category"), r'"(?:[^"\\]|\\.)+"'
    lists = distinct.select(
        pl.when(text.str.starts_with("["))
        .then(text.str.extract_all(quoted).list.eval(pl.element().str.slice(1).str.head(-1)))
        .otherwise(pl.concat_list(text))
        .list.eval(pl.element().str.strip_chars())
        .list.unique(maintain_order=True)
        .list.head(MOST_CATEGORIES)
    )["category"]
    names = lists.explode().unique().drop_nulls()
    resolved = dict(zip(names, _resolve(names), strict=True))
    lists = lists.to_frame().select(pl.col("category").list.eval(pl.element().replace(resolved)))
    return lists["category"].gather(known.to_physical())


def _as_text(value: object) -> str | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode()  # a \ud800 alone is half a character


def _resolve(texts: pl.Series) -> pl.Series:
    """Texts with their HTML entities resolved."""
    marked = texts.str.contains("&", literal=True).arg_true()
    resolved = [html.unescape(text) for text in texts.gather(marked)]
    return texts.clone().scatter(marked, resolved) if resolved else texts

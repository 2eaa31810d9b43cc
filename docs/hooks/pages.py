"""Pages made from files outside ``docs``, and markers filled in from the code.

``<!-- generated: settings -->`` (or ``commands``, ``python``) in a page is replaced by that part of
the reference; see ``reference.py`` beside this file.
"""

import re
import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))

import notebook
import reference

ROOT = Path(__file__).parents[2]
OUTSIDE = {  # file in the repository: page of the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
GENERATED = re.compile(r"<!-- generated: (\w+) -->")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the README, the changelog, the benchmarks' page, and a page for each notebook."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text("utf-8")
        files.append(File.generated(config, page, content=with_site_links(text)))
    for file in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = file.src_uri.removesuffix(".ipynb") + ".md"
        content = notebook.as_markdown(file.content_string)
        files.append(File.generated(config, page, content=content))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Fill in what the page takes from the code."""
    return GENERATED.sub(lambda marker: getattr(reference, marker[1])(), markdown)


def with_site_links(text: str) -> str:
    """The text of a file outside ``docs`` with its links pointing into the site.

    Links to files that the site does not have (the licence, a script) become their text.
    """

    def link(match: re.Match[str]) -> str:
        label, target, anchor = match[1], match[2].removeprefix("./"), match[3] or ""
        if "://" in target or not target:
            return match[0]
        if target in OUTSIDE:
            return f"[{label}]({OUTSIDE[target]}{anchor})"
        if target.startswith("docs/"):
            return f"[{label}]({target.removeprefix('docs/')}{anchor})"
        return label

    return re.sub(r"\[([^][]*)\]\(([^)#\s]*)(#[^)\s]*)?\)", link, text)

"""A run's prepared log."""

from corellarec.base.console import say_warnings
from corellarec.data.guess import noun
from corellarec.data.preparation import Preparation
from corellarec.data.prepare import prepare
from corellarec.run.workspace import Workspace

MOVIES = ("movies", "movies-liked", "movies-rated")  # templates that speak of movies


def prepare_log(workspace: Workspace) -> Preparation:
    """Prepare the log, or find it prepared from the same source."""
    with workspace.accelerator.main_process_first():
        preparation = prepare(workspace.config.data, workspace.directory / "data")
    display = workspace.display
    display.say(
        f"data: {preparation.rows:,} rows, {preparation.users:,} users, {preparation.items:,} "
        f"items, {preparation.positives:,} positives"
    )
    if omitted := preparation.left_out_text:
        display.say(f"left out: {omitted}")
    warnings, template = preparation.warnings, workspace.config.llm.template
    items = workspace.config.data.items
    if items and template in MOVIES and noun(str(items.files)) != "movies":
        warnings += (
            f"llm.template = {template!r} calls your items movies: items-rated does not, and a "
            "TOML file of your own says what they are",
        )
    if not display.quiet:
        say_warnings(display.console, warnings)
    return preparation

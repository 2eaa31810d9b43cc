"""What a step depends on."""

from rich.console import Console

from corellarec.config import load_config
from corellarec.run.prepare import prepare_log
from corellarec.run.workspace import Workspace


def test_scores_under_an_adapter_do_not_depend_on_the_crm(movielens, tmp_path):
    """An LLM that is tuned already answers once for every CRM; one that a run tunes does not."""

    def keys(name, *settings):
        config = load_config(settings=[f"data.path={movielens}", *settings])
        run = Workspace(config, tmp_path / name, Console(quiet=True))
        run.start()
        prepare_log(run)
        return [run.key("scores", "test", 0), run.key("scores", "validation", 100)]

    crms = {"dcnv2": ("crm.model=dcnv2", "crm.ratings=false"), "stream": ("crm.model=stream",)}
    tuned, own = (
        [keys(f"{name} {len(more)}", *crm, *more) for name, crm in crms.items()]
        for more in (("llm.adapter=pretrained",), ())
    )
    assert tuned[0] == tuned[1]
    assert not set(own[0]) & set(own[1])
    assert keys("seed", "llm.adapter=pretrained", "seed=1")[0] == tuned[0][0]
    assert keys("seed again", "llm.adapter=pretrained", "seed=1")[1] != tuned[0][1]

"""TALLRec: the language model with LoRA alone, one prompt a sample, tuned on a few samples.

Source: Bao et al. 2023, https://arxiv.org/abs/2305.00447
"""

from corellarec.research.baselines.experiment import Experiment, Trained
from corellarec.run.weights import load_part
from corellarec.train.stages import LlmStageModel, LlmTask

ROWS = 64
EPOCHS = 5  # over few rows, at least
VALIDATION_ROWS = 200  # at most, where the rows are few


def tallrec(experiment: Experiment) -> Trained:
    """Tune the run's language model in the paper's layout, with stage 3's settings.

    Few rows are drawn one by one, gone over ``EPOCHS`` times and validated once an epoch.
    """
    run, settings = experiment.workspace, experiment.workspace.config.stage3
    if experiment.rows != "all":
        settings = settings.model_copy(
            update={
                "epochs": max(EPOCHS, settings.epochs),
                "evaluations": 1,
                "validation_rows": min(VALIDATION_ROWS, settings.validation_rows),
            }
        )
    rows = experiment.drawn("train", experiment.rows)

    def task() -> LlmTask:
        validation = experiment.drawn("validation", settings.validation_rows)
        model = LlmStageModel(run.llm, run.log, rows)
        tuning = LlmTask(model, run.scorer, settings, validation, run.config.seed)
        tuning.selection = {"llm.": "llm_log_loss"}  # it answers as trained
        return tuning

    state = experiment.train("tuned", "the LLM alone", task, settings)
    load_part(run.llm, experiment.directory / "tuned", experiment.key("tuned"), "llm.")
    return Trained(
        run.scorer.logits,
        f"{run.config.llm.model} with LoRA",
        len(rows),
        state.seconds,
        state.best["llm."],
    )

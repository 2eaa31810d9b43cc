"""The evaluation of a run on its test split."""

import time
from dataclasses import replace
from pathlib import Path

from corellarec.base.artifacts import read_sealed
from corellarec.base.calibrate import fit_logistic
from corellarec.base.errors import ArtifactError
from corellarec.base.machine import machine
from corellarec.base.metrics import Floats, sigmoid
from corellarec.cascade.router import Router
from corellarec.config import Config
from corellarec.crm.build import network_reader
from corellarec.crm.score import crm_logits
from corellarec.data.log import Samples
from corellarec.evaluation.evaluate import evaluate_scores
from corellarec.evaluation.facts import data_facts, training_curves
from corellarec.evaluation.parts import Costs, Distillation, Network
from corellarec.evaluation.results import Evaluation
from corellarec.evaluation.segments import cuts
from corellarec.llm.count import paper_tokens, tokens_alone
from corellarec.llm.load import load_tokenizer
from corellarec.run.distill import Distilled, distill
from corellarec.run.fit import fit
from corellarec.run.members import blend_members
from corellarec.run.scores import ScoredRows, score, scored_rows
from corellarec.run.weights import final_crm, final_networks
from corellarec.run.workspace import Workspace

COST_SAMPLE = 300  # test rows whose prompts are encoded to compare the layouts' tokens


def evaluate_run(workspace: Workspace) -> Evaluation:
    """Measure a run's cascade on its test split, and write ``metrics.json``.

    The router is fitted on validation data before, if it is not there yet. Under ``torchrun``
    processes share the language model's scoring, and the first one does the rest.

    Raises:
        ArtifactError: If a step before it is missing or damaged.
        LockedError: If another process works in the directory.
    """
    with workspace.alone():
        distilled, router = distill(workspace), fit(workspace)
        score(workspace, "test", workspace.config.evaluate.test_rows)
        with workspace.accelerator.main_process_first():
            if not workspace.accelerator.is_main_process:
                return read_evaluation(workspace.directory, workspace.config)
            found = _evaluate(workspace, distilled, router)
            found.save(workspace.directory / "metrics.json")
    return found


def _evaluate(workspace: Workspace, distilled: tuple[Distilled, ...], router: Router) -> Evaluation:
    config = workspace.config
    test = scored_rows(workspace, "test", config.evaluate.test_rows)
    costs = measure_costs(workspace, test)
    networks = _networks(workspace, test)
    with workspace.display.waiting("measuring, with bootstrap intervals"):
        found = evaluate_scores(
            test.scores,
            router,
            bootstrap=config.evaluate.bootstrap,
            groups=config.evaluate.groups,
            seed=config.seed,
            name=str(workspace.directory),
            costs=costs,
            ways=cuts(workspace.log, test.rows, config.evaluate.groups),
            networks={network.name: p for network, p in networks},
        )
    return replace(
        found,
        settings=config.model_dump(mode="json"),
        data=data_facts(workspace),
        machine=machine(workspace.device),
        stages=training_curves(workspace),
        distillation=tuple(Distillation(**vars(one)) for one in distilled),
        networks=tuple(network for network, _ in networks),
    )


def read_evaluation(run: Path, config: Config) -> Evaluation:
    """The figures of a run, from ``metrics.json``.

    Raises:
        ArtifactError: If they are damaged, or not of the run's present settings.
    """
    path, remedy = run / "metrics.json", f"`corellarec evaluate {run}` writes it again"
    found = Evaluation.from_json(read_sealed(path, remedy), path)
    if found.settings != config.model_dump(mode="json"):
        raise ArtifactError(f"{path} was made with other settings: {remedy}")
    return found


def measure_costs(workspace: Workspace, test: ScoredRows) -> Costs:
    """Tokens a row in both layouts, and the time that each model takes for a row."""
    log, cost = workspace.log, test.cost
    samples = log.samples(test.rows[:: max(1, len(test.rows) // COST_SAMPLE)])
    crm_ms = None
    if not workspace.is_external:
        crm, start = final_crm(workspace), time.perf_counter()
        crm_logits(*crm, log.samples(test.rows))
        crm_ms = 1e3 * (time.perf_counter() - start) / max(1, len(test.rows))
    return Costs(
        crm_ms=crm_ms,
        llm_ms=1e3 * cost.seconds / max(1, cost.samples),
        llm_tokens=cost.tokens / max(1, cost.samples),
        layout_tokens=layout_tokens(workspace, samples),
    )


def _networks(workspace: Workspace, test: ScoredRows) -> list[tuple[Network, Floats]]:
    """Each network of a CRM that is several, and its calibrated probabilities of the test rows."""
    blended, log, found = blend_members(workspace), workspace.log, []
    if blended is None:
        return []
    validation = log.rows_of("validation")
    label = log.labels(validation).numpy()
    trained = zip(final_networks(workspace), workspace.config.crm.networks, strict=True)
    for number, (crm, config) in enumerate(trained):
        reader = network_reader(config, log, workspace.device)
        calibration = fit_logistic(
            label, crm_logits(crm, reader, log.samples(validation)).double().numpy()
        )
        start = time.perf_counter()
        logit = crm_logits(crm, reader, log.samples(test.rows)).double().numpy()
        ms = 1e3 * (time.perf_counter() - start) / max(1, len(test.rows))
        network = Network(
            blended.names[number],
            blended.weights[number],
            blended.alone[number],
            blended.without[number],
            ms,
        )
        found.append((network, sigmoid(calibration(logit))))
    return found


def layout_tokens(workspace: Workspace, samples: Samples) -> dict[str, float]:
    """Tokens of a sample scored alone, in the run's layout and, if it has one, the paper's."""
    config, log = workspace.config.llm, workspace.log
    found = {config.layout: tokens_alone(workspace.layout, samples)}
    paper = paper_tokens(config, log, load_tokenizer(config.model), samples)
    return found if paper is None else {"paper": paper} | found

"""Further networks of the CRM: each is trained alone, then all are blended on validation data."""

from corellarec.base import metrics
from corellarec.base.artifacts import read_json, write_json, writing
from corellarec.base.calibrate import fit_logistic
from corellarec.base.metrics import Floats, Labels, sigmoid
from corellarec.config import CrmConfig, MemberConfig
from corellarec.crm.build import network_reader
from corellarec.crm.ensemble import Blended
from corellarec.crm.score import crm_logits
from corellarec.run.stages import train_into
from corellarec.run.weights import BLEND, final_networks, new_network
from corellarec.run.workspace import Workspace
from corellarec.train.stages import CrmTask


def train_members(workspace: Workspace) -> None:
    """Train each further network of the CRM alone, or find it done."""
    config, log = workspace.config, workspace.log
    for number, member in enumerate(config.crm.members, 1):
        seed = config.seed + number  # a network that is there twice has two seeds

        def task(member: MemberConfig = member, seed: int = seed) -> CrmTask:
            crm = new_network(workspace, member.crm, seed)
            reader = network_reader(member.crm, log, workspace.device)
            return CrmTask(crm, reader, log, member.stage1, seed)

        train_into(
            workspace,
            workspace.directory / f"member{number}",
            workspace.step_key(f"member{number}"),
            task,
            member.stage1,
            title=f"member {number}, {member.crm.model}: alone",
            seed=10 * seed + 1,
        )


def blend_members(workspace: Workspace) -> Blended | None:
    """Fit the weights of the networks' logits on validation data, or find it done.

    Returns:
        None where the CRM is one network.

    Raises:
        ArtifactError: If a network is not trained.
    """
    if not workspace.config.crm.members:
        return None
    directory, key = workspace.directory / "members", workspace.step_key("members")
    if workspace.done(directory, key) is not None:
        return read_json(directory / BLEND, Blended)
    rows = workspace.log.rows_of("validation")
    label, samples = workspace.log.labels(rows).numpy(), workspace.log.samples(rows)
    logits = [
        crm_logits(crm, network_reader(config, workspace.log, workspace.device), samples)
        for crm, config in zip(
            final_networks(workspace), workspace.config.crm.networks, strict=True
        )
    ]
    logits = [one.double().numpy() for one in logits]
    blend = fit_logistic(label, *logits)
    found = Blended(
        names=network_names(workspace.config.crm),
        weights=blend.weights,
        bias=blend.bias,
        alone=tuple(_loss(label, [one]) for one in logits),
        without=tuple(_loss(label, logits[:i] + logits[i + 1 :]) for i in range(len(logits))),
        together=_loss(label, logits),
    )
    with writing(directory, {"kind": "members", "key": key}) as unfinished:
        write_json(unfinished / BLEND, found)
    parts = [
        f"{weight:.2f} {name} ({loss:.4f} alone)"
        for weight, name, loss in zip(found.weights, found.names, found.alone, strict=True)
    ]
    workspace.display.say(f"CRM: {' + '.join(parts)}; validation log loss {found.together:.4f}")
    return found


def network_names(config: CrmConfig) -> tuple[str, ...]:
    """A name for each network of a CRM; those of one kind are numbered."""
    models = [network.model for network in config.networks]
    return tuple(
        model if models.count(model) == 1 else f"{model} {models[:i].count(model) + 1}"
        for i, model in enumerate(models)
    )


def _loss(label: Labels, logits: list[Floats]) -> float:
    """Validation log loss of a blend that is fitted on the same rows."""
    return metrics.log_loss(label, sigmoid(fit_logistic(label, *logits)(*logits)))

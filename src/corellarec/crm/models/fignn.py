"""Fi-GNN."""

import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from corellarec.config import NetworkConfig
from corellarec.crm.architecture import Architecture
from corellarec.crm.layers import attend
from corellarec.crm.model import CrmOutput, FieldEncoder


class GraphLayer(nn.Module):
    """Messages between fields: a matrix for each sender and one for each receiver.

    Args:
        fields, width: Shape of the node states.

    Source: Li et al. 2019, https://arxiv.org/abs/1910.05552
    """

    def __init__(self, fields: int, width: int) -> None:
        super().__init__()
        self.send = nn.Parameter(nn.init.xavier_normal_(torch.empty(fields, width, width)))
        self.receive = nn.Parameter(nn.init.xavier_normal_(torch.empty(fields, width, width)))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, graph: Tensor, states: Tensor) -> Tensor:
        """Pass ``states`` (batch, fields, width) along ``graph`` (batch, to, from)."""
        sent = torch.einsum("bfi,foi->bfo", states, self.send)
        received = torch.bmm(graph.to(sent.dtype), sent)
        return torch.einsum("bfi,foi->bfo", received, self.receive) + self.bias


class FiGNN(nn.Module):
    """Fields as nodes of a complete graph whose edges are attended to.

    Self-attention makes the nodes' first states; gated recurrent steps pass messages between
    them; the score is a sum over nodes, each weighted by all.

    Args:
        fields, dim: Shape of the input.
        width: Width of a node's state.
        heads: Heads of the self-attention; divides ``width``.
        steps: Number of message-passing steps, at least 1.

    Raises:
        ValueError: If ``heads`` does not divide ``width``.

    Source: Li et al. 2019, https://arxiv.org/abs/1910.05552
    """

    def __init__(self, fields: int, dim: int, *, width: int, heads: int, steps: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"heads ({heads}) must divide the width of the states ({width})")
        self.heads = heads
        self.project = nn.Linear(dim, 3 * width)
        self.out = nn.Linear(width, width)
        self.residual = nn.Linear(dim, width)
        self.edge_from = nn.Linear(width, 1, bias=False)
        self.edge_to = nn.Linear(width, 1, bias=False)
        self.layers = nn.ModuleList(GraphLayer(fields, width) for _ in range(steps))
        self.gru = nn.GRUCell(width, width)
        self.score = nn.Linear(width, 1, bias=False)
        self.weight = nn.Linear(fields * width, fields, bias=False)
        self.layer_widths = {f"state{number}": fields * width for number in range(steps + 1)}

    def forward(self, fields: Tensor) -> CrmOutput:
        """Score ``(batch, fields, dim)`` floats."""
        projected = self.project(fields).unflatten(2, (3, self.heads, -1)).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in projected)
        attended = attend(query, key, value).transpose(1, 2).flatten(2)
        first = states = (self.out(attended) + self.residual(fields)).relu()
        graph = self.graph(states)
        layers = {"state0": states.flatten(1)}
        for number, layer in enumerate(self.layers, 1):
            message = layer(graph, states)
            states = self.gru(message.flatten(0, 1), states.flatten(0, 1)).view_as(first) + first
            layers[f"state{number}"] = states.flatten(1)
        scores = self.score(states).squeeze(2)
        return CrmOutput((self.weight(states.flatten(1)) * scores).sum(1), layers)

    def graph(self, states: Tensor) -> Tensor:
        """Edge weights ``(batch, to, from)``: they sum to 1 at each node, and none is to itself."""
        edges = leaky_relu(self.edge_to(states) + self.edge_from(states).transpose(1, 2))
        own = torch.eye(states.shape[1], dtype=torch.bool, device=states.device)
        return edges.float().masked_fill(own, -torch.inf).softmax(2)


def build(config: NetworkConfig, encoder: FieldEncoder) -> FiGNN:
    """The configured network over the fields of ``encoder``."""
    return FiGNN(encoder.fields, config.embedding_dim, **config.fignn.model_dump())


ARCHITECTURE = Architecture(
    build,
    has_deep_part=False,
    search={"crm.fignn.steps": (1, 2, 3), "crm.fignn.width": (16, 32)},
)

"""Bulk scoring by a CRM."""

import torch
from torch import Tensor, nn

from corellarec.crm.batch import CrmReader
from corellarec.data.log import Samples

BATCH_SIZE = 2048  # larger batches leave the cache


@torch.inference_mode()
def crm_logits(model: nn.Module, reader: CrmReader, samples: Samples) -> Tensor:
    """``(n,)`` fp32 on the CPU: the logit of each sample."""
    model.eval()
    parts = [
        model(reader(samples[start : start + BATCH_SIZE])).logit.cpu()
        for start in range(0, len(samples), BATCH_SIZE)
    ]
    return torch.cat(parts) if parts else torch.zeros(0)

"""Bulk scoring by a CRM."""

import torch
from torch import Tensor, nn

from corellarec.crm.batch import Reader
from corellarec.data.log import Samples

BATCH_SIZE = 2048  # larger batches leave the cache


@torch.inference_mode()
def crm_logits(model: nn.Module, reader: Reader, samples: Samples) -> Tensor:
    """``(n,)`` fp32 on the CPU: the logit of each sample."""
    model.eval()
    logit = torch.zeros(len(samples))
    for part in reader.parts(samples, BATCH_SIZE):
        logit[part] = model(reader(samples[part])).logit.cpu()
    return logit

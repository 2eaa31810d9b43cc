"""BST: a deep network over the fields, whose history is read by a transformer.

Source: Chen et al. 2019, https://arxiv.org/abs/1905.06874
"""

from corellarec.crm.architecture import Architecture
from corellarec.crm.models.deep import build

ARCHITECTURE = Architecture(build, history="transformer", search={"crm.transformer.blocks": (1, 2)})

"""DIN: a deep network over the fields, whose history is read by target attention.

Source: Zhou et al. 2018, https://arxiv.org/abs/1706.06978
"""

from corellarec.crm.architecture import Architecture
from corellarec.crm.models.deep import build

ARCHITECTURE = Architecture(build, search={"crm.attention.hidden": (32, 64)})

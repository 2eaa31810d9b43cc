"""What the fork server imports, so that a forked command line starts at once.

Nothing here may compute: threads that polars or torch have started do not survive a fork.
"""

import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import corellarec.api
import corellarec.cascade.files
import corellarec.cli.main
import corellarec.evaluation.run
import corellarec.evaluation.terminal
import corellarec.research.study.run  # noqa: F401

torch.set_num_threads(1)

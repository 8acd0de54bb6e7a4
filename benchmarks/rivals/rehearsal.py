"""Rehearsal (Rebuffi et al., CVPR 2017, section 3.3; Chaudhry et al. 2019, "On tiny episodic memories"): a few cases of every
earlier task train again, with the labels that they had, mixed with the new ones.

It needs what the others do not: old images and labels that are still there and may be used.

What differs: of iCaRL the joint training set alone is taken, neither its distillation nor its choice of exemplars by the mean
of their features nor its classifier; cases are drawn at random, which Chaudhry et al. found no worse. A batch is drawn from new
and kept cases alike; there half of it is always old.
"""

from __future__ import annotations

import numpy as np

from ctune.bench.forgetting.rivals import State, Task
from ctune.model.network import Network

from .descent import descend

EXEMPLARS = 4
"""Cases that are kept of each task."""


def rehearsal(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``."""
    kept = []
    for number, cases in enumerate(task.earlier):
        # The same cases in every round: what was not kept is gone.
        rng = np.random.default_rng([task.seed, number])
        chosen = rng.choice(len(cases), min(EXEMPLARS, len(cases)), replace=False)
        kept += [cases[int(i)] for i in sorted(chosen)]
    descend(network, task, [*task.cases, *kept], (*task.old, task.new))
    return {}

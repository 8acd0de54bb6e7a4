"""Plain fine-tuning: every weight on the new class alone, nothing done against forgetting.

Heads of old classes get no gradient, but the base moves under them. ``background`` is the same with the old classes taught as
background wherever the new cases lack their labels, the mistake behind "revised only" of Zhang et al. (ISBI 2024, table 1).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ctune.bench.forgetting.rivals import State, Task
from ctune.model.network import Network

from .descent import descend


def finetune(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``."""
    descend(network, task, task.cases, (task.new,))
    return {}


def background(network: Network, task: Task, state: State) -> State:
    """See ``ctune.bench.forgetting.rivals.Learn``."""
    empty = [
        replace(case, labels={**{n: np.zeros(case.image.shape, np.uint8) for n in task.old}, **case.labels})
        for case in task.cases
    ]
    descend(network, task, empty, (*task.old, task.new))
    return {}

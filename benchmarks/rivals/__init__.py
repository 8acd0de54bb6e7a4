"""Methods of continual learning to measure against: simple, with their published settings, none tuned for these data.

All train every weight of one network (``trainable = "all"``) with the loss, optimiser and number of steps of plain
fine-tuning, and differ in one thing each. What they get and return: ``ctune.bench.rivals``.
"""

from .ewc import ewc
from .finetune import background, finetune
from .lwf import lwf
from .plop import plop
from .rehearsal import rehearsal

RIVALS = {
    "fine-tuning": finetune,
    "background": background,
    "LwF": lwf,
    "EWC": ewc,
    "PLOP": plop,
    "rehearsal": rehearsal,
}
"""{name: rival}, in the order in which they are shown."""

"""Methods of continual learning to measure against: simple, by their papers or their authors' code, none tuned for these data.

All train every weight of one network (``trainable = "all"``) with the optimiser, patches and loss of the new class of plain
fine-tuning, and differ in one thing each. Classes here overlap and each has a sigmoid of its own, where the papers have one
softmax with a background: what that changes, and every other deviation, stands at the head of each method. What they get and
return: ``ctune.bench.forgetting.rivals``.
"""

from ctune.bench.forgetting.rivals import Rival

from .ewc import ewc
from .finetune import background, finetune
from .lwf import lwf
from .mib import mib
from .plop import plop
from .rehearsal import rehearsal

RIVALS = {
    "fine-tuning": Rival(finetune),
    "background": Rival(background, long=False),
    "LwF": Rival(lwf),
    "EWC": Rival(ewc),
    "MiB": Rival(mib),
    "PLOP": Rival(plop),
    "rehearsal": Rival(rehearsal),
    "rehearsal with pyramids": Rival(rehearsal, head="pyramid"),
}
"""{name: rival}, in the order in which they are measured; each has a colour of its own in ``ctune.bench.forgetting.plots``.

New classes get text heads, as full training makes them: with every weight training on dense patches a step with one pyramid
takes about half as long again, and each further pyramid that a method trains or asks adds as much. One rival has them too.
What background taught as such does to old classes is seen in a few steps; more of them would only cost time.
"""

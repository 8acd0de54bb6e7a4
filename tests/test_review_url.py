"""The review page on a pool in an object store: the CT is brought when it is asked for, a revision goes back there."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
from small_review import AFFINE, box, review_project
from test_review import client, draw
from test_shared_pool import bucket

from ctune.data.shared_pool import SharedPool
from ctune.project import open_project

__all__ = ["bucket"]


def test_a_case_of_a_pool_at_a_url_is_shown_and_revised(bucket: str, tmp_path: Path) -> None:
    made = review_project(tmp_path / "project", cases=1, pool=bucket)
    shutil.rmtree(made.cache)  # Another machine: it has the project's rounds, and no image.
    here = open_project(made.root)
    browser = client(here)
    image = here.pool.case("case_1").image
    assert not image.exists()
    assert browser.get("/api/queue").json()["items"][0]["state"] == "open"
    answer = browser.get("/api/cases/case_1/ct?unpacked=1")
    assert answer.status_code == 200 and image.exists()
    assert np.array_equal(
        np.asarray(nib.Nifti1Image.from_bytes(answer.content).dataobj), nib.load(image).get_fdata()
    )
    image.unlink()
    assert browser.get("/datastore/image?image=case_1").content == image.read_bytes()
    assert draw(browser, "spleen", box("spleen")).status_code == 200
    done = browser.post("/api/cases/case_1/verdict", json={"verdict": "edited"})
    assert done.status_code == 200, done.text
    elsewhere = SharedPool(bucket, tmp_path / "third")
    (record,) = elsewhere.annotations("case_1", "spleen")
    kept = elsewhere.read(record)
    assert np.array_equal(kept.mask, box("spleen")) and record.author == "dr. a"
    assert np.allclose(elsewhere.grid("case_1").affine, AFFINE)

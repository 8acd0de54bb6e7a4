"""The report: one file that needs nothing else, says the same twice, shows right and left as they are, and counts."""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from small_network import project as small_project

from ctune.errors import RoundError
from ctune.evaluate import CaseScore, ClassSummary, Outcome
from ctune.foundation import train_model
from ctune.project import Project
from ctune.report import (
    HeadFacts,
    ModelFacts,
    Panel,
    ReportData,
    RoundSummary,
    SelectedCase,
    report_of,
    view_of_change,
    view_of_selected,
    write_report,
)
from ctune.report.drawing import spread
from ctune.report.overlays import picture
from ctune.report.page import render
from ctune.report.palette import MARKERS, ON_BLACK, ON_WHITE, colour, marker
from ctune.report.pictures import by_rule
from ctune.round import RoundState, rounds, start
from ctune.types import Grid, Mask, Volume

Finished = tuple[Project, RoundState, Path]
CHROMIUM = next(
    (p for n in ("chromium", "chromium-browser", "google-chrome") if (p := shutil.which(n))), None
)


# Made-up data: a patient of water in air, a liver box on the right, a spleen box on the left ------------------------------


def patient(axes: str = "RAS") -> tuple[Volume, Grid, dict[str, Mask]]:
    """44x20x10 voxels of 2x3x5 mm, stored in any order of axes: liver at the patient's right, spleen at the left."""
    hu = np.full((44, 20, 10), -1000, dtype=np.float32)
    hu[11:33, 4:16, :] = 0
    masks = {name: np.zeros(hu.shape, dtype=np.uint8) for name in ("liver", "spleen")}
    masks["liver"][24:31, 6:13, 3:8] = 1  # x grows towards the right in RAS+
    masks["spleen"][13:17, 5:9, 4:8] = 1
    hu[masks["liver"] == 1], hu[masks["spleen"] == 1] = 200, 100
    image = nib.Nifti1Image(hu, np.diag([2.0, 3.0, 5.0, 1.0]))
    turn = nib.orientations.ornt_transform(
        nib.orientations.io_orientation(image.affine), nib.orientations.axcodes2ornt(axes)
    )
    stored = image.as_reoriented(turn)
    turned = {n: nib.orientations.apply_orientation(m, turn).astype(np.uint8) for n, m in masks.items()}
    return stored.get_fdata(dtype=np.float32), Grid(stored.shape, stored.affine), turned


def summary(
    dice: float | None, cases: int = 5, misses: int = 0, false: int = 0, absent: int = 0
) -> ClassSummary:
    return ClassSummary(dice, dice, None if dice is None else 4.0, cases, misses, false, absent)


def one_round(number: int, **changes: object) -> RoundSummary:
    row = SelectedCase(1, "case_a", 3.25, "spleen: new class; liver: 3.1 of 900.0 mL uncertain", 120.0, 44.0)
    made = RoundSummary(
        number, "small", ("spleen",), "importance", (row,), "dr. a", False, 1, 120.0, 44.0,
        {"spleen": [1.5, 0.75, 0.5]}, {"predict": 1.0, "tune": 2.0}, 0.5, 0.0, 4096,
    )  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def data(**changes: object) -> ReportData:
    ct, grid, masks = patient()
    heat = (255 * masks["liver"]).astype(np.uint8)
    made = ReportData(
        title="small",
        classes=("liver", "spleen"),
        base_classes=("liver",),
        evaluations=(
            {"liver": summary(0.9)},
            {"liver": summary(0.9), "spleen": summary(0.4, 4, 2, 1, absent=1)},
            {"liver": summary(0.9), "spleen": summary(0.7, 4, 1, 0, absent=1)},
        ),
        rounds=(one_round(1), one_round(2)),
        model=ModelFacts(
            "small:3",
            "a" * 64,
            "b" * 64,
            "c" * 64,
            "unet_small",
            (
                HeadFacts("liver", "d" * 64, "text", 0, {"original": 8}, ()),
                HeadFacts("spleen", "e" * 64, "pyramid", 2, {"predicted": 3, "revised": 2}, ("dr. a",)),
            ),
        ),
        cases={"pool": 8, "test": 5},
        seconds=75.0,
        seed=7,
        machine={"system": "Linux", "device": "2 CPU cores"},
        versions={"torch": "2.13.0"},
        views=(
            view_of_selected(
                "case_a",
                "number 1",
                ct,
                grid,
                predicted={"liver": masks["liver"]},
                truth=masks,
                attention=heat,
            ),
        ),
        tests=(view_of_change("case_t", "the worst", ct, grid, before={}, after=masks, truth=masks),),
        bwt={"all classes": 0.3},
    )
    return replace(made, **changes)  # type: ignore[arg-type]


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, words: str) -> None:
        self.words.append(words)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def pixels(address: str) -> np.ndarray:
    """(rows, columns, 3) float of a PNG data address."""
    kind, _, payload = address.partition(",")
    assert kind == "data:image/png;base64"
    return np.asarray(imread(io.BytesIO(base64.b64decode(payload)), format="png"))[..., :3]


def near(image: np.ndarray, tint: str, tolerance: float = 0.12) -> np.ndarray:
    """(rows, columns) bool: pixels of about this colour."""
    wanted = np.array([int(tint[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.asarray(np.abs(image - wanted).max(axis=-1) < tolerance)


# The page -----------------------------------------------------------------------------------------------------------------


def test_the_page_needs_nothing_else() -> None:
    html = render(data())
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.tags}
    assert "http:" not in html and "https:" not in html and "@import" not in html
    assert all(where.startswith("#") for where in re.findall(r"url\(([^)]*)\)", html))
    addresses = [v for _, a in page.tags for k, v in a.items() if k in ("src", "href", "srcset") and v]
    assert addresses and all(v.startswith(("data:image/png;base64,", "#")) for v in addresses)
    assert not [k for _, a in page.tags for k in a if k.startswith("on")], "no inline handlers"
    policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy and policy.startswith("default-src 'none'")


def test_ids_are_unique_and_every_reference_is_found() -> None:
    html = render(data())
    ids = [a["id"] for _, a in Page(html).tags if "id" in a]
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', html)) <= set(ids)


def test_the_same_data_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(tmp_path / name, data())
    first = (tmp_path / "a.html").read_bytes()
    assert first == (tmp_path / "b.html").read_bytes()
    assert str(date.today()).encode() not in first, "nothing of today is on the page"


def test_counts_stand_beside_every_mean() -> None:
    text = Page(render(data())).text
    assert "0.400 4 · 2 · 1" in text and "0.700 4 · 1 · 0" in text and "0.900 5 · 0 · 0" in text
    assert "n · missed · false" in text and "A missed organ counts as Dice 0" in text


def test_what_happened_is_told() -> None:
    text = Page(render(data())).text
    for words in (
        "2 rounds of continual tuning, nothing forgotten", "small:3", "exactly 0", "8,192 numbers in all",
        "new: spleen; liver: 3.1 of 900.0 mL uncertain", "1 min 15 s", "3 predicted, 2 revised", "8 original",
        "dr. a", "torch 2.13.0", "sha256:" + "b" * 64, "sha256:" + "a" * 64, "revised: 1, 2",
    ):  # fmt: skip
        assert words in text, words


@pytest.mark.parametrize(
    ("changes", "told", "untold"),
    [
        ({"rounds": (one_round(1, max_abs_logit_change=3e-7),) * 2}, "3e-07", "exactly 0"),
        ({"rounds": (one_round(1, max_abs_logit_change=None),) * 2}, "not compared", "exactly 0"),
        ({"rounds": (one_round(1, compared_logits=0), one_round(2, compared_logits=0))}, "nothing to compare", "bit for bit"),
        (
            {"evaluations": ({"liver": summary(0.9)}, {"liver": summary(0.9)}, {"liver": summary(0.8)})},
            "2 rounds of continual tuning",
            "nothing forgotten",
        ),
    ],
    ids=["moved", "not frozen", "nothing compared", "a class fell"],
)  # fmt: skip
def test_nothing_forgotten_is_only_said_when_it_holds(
    changes: Mapping[str, object], told: str, untold: str
) -> None:
    text = Page(render(data(**changes))).text
    assert told in text and untold not in text and "nothing forgotten" not in text


def test_names_from_outside_are_escaped() -> None:
    nasty = "<img src=x onerror=alert(1)>"
    row = SelectedCase(1, nasty, 1.0, nasty)
    html = render(data(title=nasty, rounds=(one_round(1, selected=(row,), expert=nasty), one_round(2))))
    assert nasty not in html and "&lt;img src=x" in html
    assert not [a for tag, a in Page(html).tags if tag == "img" and "onerror" in a]


def test_a_report_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, data())
    before = path.read_bytes()
    with pytest.raises(UnicodeEncodeError):
        write_report(path, data(title="\ud800, which UTF-8 cannot hold"))
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_what_was_not_measured_is_a_dash() -> None:
    text = Page(render(data(evaluations=({}, {"spleen": summary(None, 0, absent=5)}, {}), bwt={}))).text
    assert "nan" not in text.lower().split() and "None" not in text and "\N{EN DASH}" in text


# Without colour -----------------------------------------------------------------------------------------------------------


def test_classes_are_told_apart_without_colour() -> None:
    many = 20
    assert len({(colour(n), marker(n)) for n in range(1, many + 1)}) == many
    assert len(set(MARKERS)) == len(MARKERS) and len(set(ON_WHITE)) == len(ON_WHITE)
    html = render(data())
    assert re.search(r"<text[^>]*>1 +liver</text>", html) and re.search(r"<text[^>]*>2 +spleen</text>", html)


def test_plots_take_the_ink_of_the_page() -> None:
    html = render(data())
    assert "currentColor" in html and "#010203" not in html
    drawn = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert "var(--class-1)" in drawn and ON_WHITE[0] not in drawn


def test_labels_do_not_touch() -> None:
    values = [0.93, 0.94, 0.92, 0.2, 0.99, 0.991, 0.0]
    places = spread(values, 0.06, 0.0, 1.0)
    ordered = sorted(places)
    assert min(b - a for a, b in pairwise(ordered)) >= 0.06 - 1e-6
    assert min(places) >= 0 and max(places) <= 1
    assert sorted(range(7), key=places.__getitem__) == sorted(range(7), key=values.__getitem__)
    assert places[3] == 0.2, "a label with room stays at its value"


# Pictures -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["RAS", "LPS", "LAS", "PIR", "SAL"])
def test_right_is_on_the_left_however_the_file_is_stored(axes: str) -> None:
    expected = view_of_change("c", "", *patient()[:2], before={}, after={}, truth=patient()[2])
    ct, grid, masks = patient(axes)
    found = view_of_change("c", "", ct, grid, before={}, after={}, truth=masks)
    for panel, other in zip(found.panels, expected.panels, strict=True):
        assert np.array_equal(panel.ct, other.ct) and panel.size_mm == pytest.approx(other.size_mm)
        assert all(np.array_equal(panel.truth[n], other.truth[n]) for n in ("liver", "spleen"))
        columns = panel.ct.shape[1]
        liver, spleen = (np.argwhere(panel.truth[n])[:, 1].mean() for n in ("liver", "spleen"))
        assert liver < columns / 2 < spleen


def test_front_is_up_and_head_is_up() -> None:
    ct, grid, masks = patient()
    masks = {"liver": np.zeros_like(masks["liver"])}
    masks["liver"][17:21, 14:16, 8:10] = 1  # in front (high y), near the head (high z)
    axial, _, coronal = view_of_change("c", "", ct, grid, before={}, after={}, truth=masks).panels
    for panel in (axial, coronal):
        assert np.argwhere(panel.truth["liver"])[:, 0].mean() < panel.ct.shape[0] / 2, panel.title


def test_proportions_are_those_of_the_patient() -> None:
    ct, grid, masks = patient()
    view = view_of_selected("c", "", ct, grid, predicted={}, truth=masks, attention=None)
    axial, coronal = view.panels
    assert axial.size_mm == pytest.approx((axial.ct.shape[0] * 3.0, axial.ct.shape[1] * 2.0))
    assert coronal.size_mm == pytest.approx((coronal.ct.shape[0] * 5.0, coronal.ct.shape[1] * 2.0))
    for panel in view.panels:
        rows, columns, _ = pixels(picture(panel, {"liver": 1, "spleen": 2})).shape
        assert columns / rows == pytest.approx(panel.size_mm[1] / panel.size_mm[0], rel=0.01)


def test_planes_hold_the_classes_and_are_cut_to_the_patient() -> None:
    ct, grid, masks = patient()
    axial, coronal, heat = view_of_selected(
        "c", "", ct, grid, predicted={}, truth=masks, attention=masks["liver"] * 255
    ).panels
    assert set(axial.truth) == set(coronal.truth) == {"liver", "spleen"}
    assert axial.ct.shape[1] == 22 + 2 * 6 and (axial.ct[0] < -500).all() and (axial.ct[:, 0] < -500).all(), (
        "a margin of air"
    )
    assert heat.attention is not None and heat.attention.max() == 1 and heat.predicted == heat.truth == {}


def test_an_image_without_masks_shows_where_to_look() -> None:
    ct, grid, _ = patient()
    attention = np.zeros(ct.shape, dtype=np.uint8)
    attention[15, 9, 7] = 255
    panels = view_of_selected("c", "", ct, grid, predicted={}, truth={}, attention=attention).panels
    assert panels[-1].attention is not None and panels[-1].attention.max() == 1


def test_truth_is_solid_and_prediction_dashed() -> None:
    ct, grid, masks = patient()
    liver = {"liver": masks["liver"]}
    numbers = {"liver": 1}
    solid, dashed = (
        pixels(
            picture(
                view_of_selected("c", "", ct, grid, predicted=p, truth=t, attention=None).panels[0], numbers
            )
        )
        for p, t in (({}, liver), (liver, {}))
    )
    drawn, broken = near(solid, ON_BLACK[0]).any(axis=0), near(dashed, ON_BLACK[0])
    # Along the top edge of the box: the solid line has no gaps, the dashed one has several.
    top = np.flatnonzero(broken.any(axis=1))[0]
    row = broken[top : top + 4].any(axis=0)
    inside = np.flatnonzero(row)
    assert np.diff(row[inside[0] : inside[-1]].astype(int)).clip(0).sum() >= 3
    columns = np.flatnonzero(drawn)
    assert len(columns) and drawn[columns[0] : columns[-1]].all()


def test_attention_glows_where_it_is() -> None:
    ct, grid, masks = patient()
    heat = view_of_selected("c", "", ct, grid, predicted={}, truth={}, attention=masks["liver"] * 255).panels[
        -1
    ]
    image = pixels(picture(heat, {}))
    coloured = (image.max(axis=-1) - image.min(axis=-1)) > 0.3
    assert coloured.any() and np.argwhere(coloured)[:, 1].max() < image.shape[1] / 2, (
        "the liver is on the left"
    )


def test_a_flat_image_can_be_drawn() -> None:
    flat = Panel("flat", np.zeros((4, 4), dtype=np.float32), (4.0, 4.0), {}, {})
    assert pixels(picture(flat, {})).shape[0] > 100


def test_test_cases_are_shown_by_rule() -> None:
    def score(case_id: str, dice: float | None) -> CaseScore:
        outcome = Outcome.ABSENT if dice is None else Outcome.FOUND
        return CaseScore(case_id, "liver", outcome, dice, dice, 1.0, 1.0, 1.0)

    scores = [score("a", 0.9), score("b", 0.5), score("c", 0.7), score("d", None)]
    assert [case for case, _ in by_rule(scores)] == ["c", "b", "a"]
    assert by_rule(scores)[1][1] == "the worst of 3 test cases by mean Dice, 0.500"
    assert by_rule(scores[:1]) == [("a", "the only one of 1 test cases by mean Dice, 0.900")]
    assert by_rule([]) == []


# A real project -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Finished:
    made, truth = small_project(tmp_path_factory.mktemp("report"))
    digest, _ = train_model(made, "small", device=torch.device("cpu"))
    return made, start(made, name="small", model=digest, classes=["aorta"], truth=truth), truth


def test_a_project_is_gathered_as_it_is(finished: Finished, tmp_path: Path) -> None:
    made, state, truth = finished
    found = report_of(made, rounds(made), truth=truth)
    assert found.classes == ("liver", "spleen", "aorta") and found.base_classes == ("liver", "spleen")
    (only,) = found.rounds
    assert only.revised_classes == ("aorta",) and only.simulated and only.max_abs_logit_change == 0.0
    assert only.revised_masks == len(only.selected) == 2 and only.expert_seconds == pytest.approx(
        state.arrows["revise"].summary["seconds"]
    )
    assert (
        only.changed_ml == pytest.approx(sum(s.changed_ml or 0.0 for s in only.selected))
        and only.changed_ml > 0
    )
    assert [set(s) for s in found.evaluations] == [{"liver", "spleen"}, {"liver", "spleen", "aorta"}]
    assert found.bwt["the base's classes"] == 0.0, "zero forgetting, seen from the scores"
    assert found.model.digest == state.model_out and found.model.reference == "small:2"
    heads = {h.class_name: h for h in found.model.heads}
    assert heads["aorta"].annotations == {"revised": 2} and heads["aorta"].round == 1
    assert heads["liver"].annotations == {"original": 4} and heads["liver"].round == 0
    assert len(found.views) == 1 and len(found.tests) == 1 and "the only one" in found.tests[0].caption
    write_report(tmp_path / "report.html", found)
    assert heads["aorta"].digest[:16] in (tmp_path / "report.html").read_text()


def test_without_truth_and_first_scores_it_shows_what_there_is(finished: Finished, tmp_path: Path) -> None:
    made, _, _ = finished
    shutil.copytree(made.root, tmp_path / "project")
    shutil.rmtree(tmp_path / "project" / "rounds" / "000")
    copy = Project(tmp_path / "project", made.config)
    found = report_of(copy, rounds(copy), tests=0)
    (view,) = found.views
    assert "aorta" in view.panels[0].truth, "what the expert drew"
    assert found.evaluations[0] == {} and found.base_classes == ("liver", "spleen") and found.bwt == {}
    assert "nothing forgotten" in Page(render(found)).text


def test_an_unfinished_round_is_refused(finished: Finished) -> None:
    made, state, _ = finished
    with pytest.raises(RoundError, match=r"^expected a finished round to report on, got none"):
        report_of(made, [])
    half = state.model_copy(update={"arrows": {k: v for k, v in state.arrows.items() if k != "register"}})
    with pytest.raises(RoundError, match=r"got round 1 before its register; run `ctune round resume` first"):
        report_of(made, [half])


# In a browser -------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")
@pytest.mark.parametrize("width", [1280, 800])
def test_a_browser_draws_it_light_and_dark(tmp_path: Path, width: int) -> None:
    page = tmp_path / "report.html"
    write_report(page, data())
    shots = {}
    for theme in ("light", "dark"):
        target = tmp_path / f"{theme}.png"
        command = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--hide-scrollbars",
            "--disable-background-networking", "--no-first-run", f"--user-data-dir={tmp_path / 'profile'}",
            *(["--blink-settings=preferredColorScheme=0"] if theme == "dark" else []),
            f"--screenshot={target}", f"--window-size={width},2600", page.as_uri(),
        ]  # fmt: skip
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        shots[theme] = np.asarray(imread(target))[..., :3]
    assert shots["light"][2, 2].min() > 0.95 and shots["dark"][2, 2].max() < 0.15
    for theme, shot in shots.items():
        assert shot.shape[:2] == (2600, width)
        margin = shot[:, -12:].reshape(-1, 3)
        assert np.abs(margin - shot[2, 2]).max() < 0.02, f"{theme}: nothing runs out of the page on the right"
        for tint in ON_BLACK[:2]:
            assert near(shot, tint, 0.05).sum() > 50, f"{theme}: the pictures are drawn"
    ink = [np.abs(s - s[2, 2]).max(axis=-1) > 0.5 for s in shots.values()]
    assert all(0.01 < i.mean() < 0.6 for i in ink), "both have something to read"

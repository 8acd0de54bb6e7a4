"""Settings of a project: ``ctune.toml`` as frozen values; unknown keys are refused with the nearest known one.

``Config()`` is the published recipe for CT (paper, section 3; house facts). ``preset(name)`` starts from another:
``ct`` (published, GPU), ``phantom`` (laptop CPU, small phantoms), ``mr`` (one uncalibrated MR contrast).
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ctune.classes import NINE_ORGANS, ClassList, canonical, nearest
from ctune.errors import ConfigError
from ctune.presets import mr, phantom
from ctune.types import Axis, View

CONFIG_NAME = "ctune.toml"


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HUWindow(Section):
    """Linear window: low..high HU -> 0..1, clipped."""

    kind: Literal["hu"] = "hu"
    low: float = -175.0
    high: float = 250.0

    @model_validator(mode="after")
    def _ordered(self) -> HUWindow:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self.low} and {self.high}")
        return self


class PercentileWindow(Section):
    """Window between two percentiles of each image's own non-zero intensities, for uncalibrated MR."""

    kind: Literal["percentile"] = "percentile"
    low: float = Field(0.5, ge=0, lt=100)
    high: float = Field(99.5, gt=0, le=100)

    @model_validator(mode="after")
    def _ordered(self) -> PercentileWindow:
        if not self.low < self.high:
            raise ValueError(f"expected low < high, got {self.low} and {self.high}")
        return self


class Preprocessing(Section):
    """From the CT's grid to the network's: RAS axes, spacing, intensity window, margin of air cropped."""

    spacing_mm: tuple[float, float, float] | Literal["native"] = (1.5, 1.5, 1.5)
    """Spacing of the network grid along R, A, S in mm; "native" keeps each image's own."""
    window: HUWindow | PercentileWindow = Field(default_factory=HUWindow, discriminator="kind")
    crop_foreground: bool = True
    """Crop to the box of voxels above the window's low end (0 after windowing); undone on the way back."""

    @field_validator("window", mode="before")
    @classmethod
    def _kind(cls, window: Any) -> Any:
        # CT is what most projects have: a window that only says low and high is one of Hounsfield units.
        return {"kind": "hu", **window} if isinstance(window, dict) else window

    @model_validator(mode="after")
    def _positive(self) -> Preprocessing:
        if self.spacing_mm != "native" and min(self.spacing_mm) <= 0:
            raise ValueError(f"expected spacing_mm above 0, got {self.spacing_mm}")
        return self


class BaseConfig(Section):
    """The shared network."""

    architecture: Literal["unet", "swin_unetr", "unet_small"] = "swin_unetr"
    feature_size: int = Field(48, ge=12, multiple_of=12)
    """Swin UNETR only: width of the first level."""
    channels: tuple[int, ...] = (8, 16, 32, 64)
    """unet_small only: channels by level, finest first."""


class HeadConfig(Section):
    """The class-specific networks."""

    kind: Literal["text", "pyramid"] = "text"
    """Of the heads that training makes from scratch."""
    new_kind: Literal["text", "pyramid"] = "pyramid"
    """Of the heads that tuning makes for a class that the base never saw."""
    pyramid_width: int = Field(12, ge=1)
    text_hidden: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """Hidden units of a text head's controller, 0 for a linear one; auto: 512 as published, or fewer."""
    text_encoder: str = ""
    """Folder of the table's encoder (all-MiniLM-L6-v2), for text heads of classes outside the table; relative to the project."""
    start_bias: Literal["random", "prior"] = "random"
    """Last bias of the heads that training makes, or a tuning of more than heads; prior: the log odds of the class in a voxel
    (Lin et al., 2017)."""


class Optimisation(Section):
    """What training and tuning share. AdamW, linear warm-up, cosine decay to zero."""

    patch_size: tuple[int, int, int] = (96, 96, 96)
    patches_per_case: int = Field(2, ge=1)
    batch_size: int = Field(24, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    weight_decay: float = Field(1e-5, ge=0)
    epochs: int = Field(250, ge=1)
    warmup_epochs: float = Field(20, ge=0)
    positive_share: float = Field(2 / 3, ge=0, le=1)
    """Share of patches centred on a labelled class (published: positive:negative 2:1)."""
    balance: float = Field(0.0, ge=0, le=1)
    """Voxels of a class weigh (others / its own) to this power in the cross-entropy, counted in each patch; 0, as published,
    weighs all alike; .5 brings organs of a few voxels in."""
    rotation_probability: float = Field(0.1, ge=0, le=1)
    intensity_shift: float = Field(0.1, ge=0)
    intensity_shift_probability: float = Field(0.2, ge=0, le=1)
    mixed_precision: bool = True
    """bfloat16 autocast on a GPU; ignored on a CPU."""
    accumulate: int = Field(1, ge=1)
    """Parts in which a batch runs, one after the other: the same step with less memory. Not for heads on a frozen base."""
    prefetch: int = Field(4, ge=0)
    """Batches that are drawn while the network works; 0 draws each when it is needed."""
    channels_last: Literal["auto"] | bool = "auto"
    """Memory format of training; auto: channels last for convolutional networks on a CPU, and on a GPU in mixed precision."""
    compile: bool = False
    """torch.compile of the network while it trains: minutes at first, then faster on a GPU."""
    checkpoint_every: int = Field(10, ge=1)
    """Epochs between checkpoints."""
    validate_every: int = Field(5, ge=0)
    """Epochs between two looks at the validation cases, which choose the weights that are kept; 0 never looks while it trains."""
    patience: int = Field(6, ge=0)
    """Looks without a better one before it stops, counted from the first with a Dice above 0; 0 never stops early."""


class Tuning(Optimisation):
    """Tuning of class-specific heads in a round."""

    epochs: int = Field(100, ge=1)
    trainable: Literal["heads", "heads+decoder", "all"] = "heads"
    data: Literal["hybrid", "revised-only", "full"] = "hybrid"
    """Of what it learns: merged labels of the revised cases, their revised masks alone, or what people judged in the
    whole pool."""
    reuse: float = Field(0.0, ge=0, le=1)
    """Share of the cases annotated earlier that train again beside these, most important first; of no matter for full."""
    scores: str = ""
    """Folder that `ctune score` left, below the project's or absolute: the importance of earlier cases, beside that of rounds."""
    head: Literal["keep", "text", "pyramid"] = "keep"
    """Kind of the tuned heads; keep: what a class has, and heads.new_kind for a class without a head."""
    start: Literal["model", "scratch"] = "model"
    """Weights to start from: the model's, or a fresh base with fresh heads."""
    unlabelled: Literal["masked", "background"] = "masked"
    """What a class counts as where nobody annotated it. background is wrong on purpose: it makes a model forget."""
    window_cover: Literal["all", "organ"] = "all"
    """Windows of a case that are kept for a class: all that hold it, or as few as hold each of its voxels once."""
    background_windows: Literal["all"] | Annotated[int, Field(ge=0)] = "all"
    """Of a case, how many windows without the class are kept beside those with it."""
    views: int = Field(1, ge=1)
    """Views of each window that heads learn from: as it is, and so many less one that are turned and shifted."""
    hard_share: float = Field(0.0, ge=0, le=1)
    """Of the sub-patches that are not around the organ, the share around what the head mistakes for it."""
    neighbour_share: float = Field(0.0, ge=0, le=1)
    """Of the sub-patches that are not around the organ, the share around other classes beside it, before `hard_share`."""
    mine_every: int = Field(2, ge=1)
    """Epochs between two looks at all windows for such mistakes."""
    cache_gb: float = Field(20.0, ge=0)
    """Bound on the kept features of all bases, in 10^9 bytes; 0 keeps none: the base runs in every step."""
    cache_memory_gb: Literal["auto"] | Annotated[float, Field(ge=0)] = "auto"
    """Of these, how much is also held in memory, or on the GPU; auto: half of what is free on a GPU."""


class Inference(Section):
    """Sliding window with a Gaussian."""

    patch_size: tuple[int, int, int] = (96, 96, 96)
    overlap: float = Field(0.5, ge=0, lt=1)
    windows_per_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """auto: about 96^3 voxels on a CPU, where more only take memory, four windows on a GPU."""
    threshold: float = Field(0.5, gt=0, lt=1)
    skip_air: bool = True
    """Leave out windows without body (HU windows only): what only they cover is background."""
    mixed_precision: bool = True
    """bfloat16 autocast on a GPU; ignored on a CPU."""
    compile: bool = False
    """torch.compile of the base on a GPU: minutes at the first window, for pools of many cases."""


class Cleaning(Section):
    """What is done to the predicted mask of one class, in this order; nothing by default."""

    within: str = ""
    """Host organ: keep what lies in its mask, or at most `within_mm` from it. A host that was not found takes nothing."""
    within_mm: float = Field(0.0, ge=0)
    min_ml: float = Field(0.0, ge=0)
    """Drop parts (26-connected) smaller than this."""
    largest: int = Field(0, ge=0)
    """Keep only so many of the largest parts; 0 keeps all."""
    fill_holes: bool = False
    """Fill what the mask encloses on all sides."""


class ImportanceConfig(Section):
    """Which cases, and which classes in them, an expert should see first."""

    recipe: Literal["ctune", "aa8k"] = "ctune"
    flips: tuple[Axis, ...] = ("y", "z")
    """Axes of the network grid (R, A, S) that are flipped for consistency; x would swap left and right organs."""
    shifts: tuple[tuple[int, int, int], ...] = ()
    """Voxels of the network grid (R, A, S) by which the image lies elsewhere in its windows, one pass more each: ((8, 8, 8),)."""

    @field_validator("shifts")
    @classmethod
    def _elsewhere(cls, shifts: tuple[tuple[int, int, int], ...]) -> tuple[tuple[int, int, int], ...]:
        if (0, 0, 0) in shifts:
            raise ValueError(
                "expected shifts by at least a voxel, got (0, 0, 0), which is the plain image again"
            )
        return shifts

    consistency: bool = False
    """Whether rounds and the service look at these views too, a pass more for each. Off: they find no more (docs/selection.md)."""
    rounds: int = Field(0, ge=0)
    """Of how many earlier rounds the heads take part in the consistency of a round's prediction; they share its base."""

    @property
    def views(self) -> tuple[View, ...]:
        """Besides the plain image, what a prediction looks at for consistency where it is asked for, as by ``predict --flips``."""
        return (*self.flips, *self.shifts)

    @property
    def views_of_rounds(self) -> tuple[View, ...]:
        """What a prediction of a round, or of the service's importance, looks at."""
        return self.views if self.consistency else ()


class Selection(Section):
    """How many cases a round hands to the expert, and how they are chosen."""

    strategy: Literal["importance", "uncertainty", "random", "diverse", "stratified"] = "importance"
    cases: int = Field(12, ge=1)


class Evaluation(Section):
    """Dice, NSD and HD95 with the stated empty-mask rule."""

    nsd_tolerance_mm: float = Field(2.0, gt=0)


class Hybrid(Section):
    """Which source wins where several annotations of one class cover a voxel, strongest first."""

    order: tuple[Literal["original", "revised", "predicted"], ...] = ("original", "revised", "predicted")

    @model_validator(mode="after")
    def _distinct(self) -> Hybrid:
        if len(set(self.order)) != len(self.order):
            raise ValueError(f"expected every source at most once, got {list(self.order)}")
        return self


class Config(Section):
    """All settings of a project."""

    name: str = "project"
    seed: int = Field(0, ge=0)
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, mps"""
    # Before the classes, which are read with them.
    aliases: dict[str, str] = Field(default_factory=dict)
    """The project's own class names of other data sets -> names here."""
    classes: tuple[str, ...] = Field(NINE_ORGANS, validate_default=True)
    """Brought to ctune's names: `IVC` becomes `postcava`."""
    pool: str = "pool"
    """Folder of the pool, relative to the project, or an fsspec URL such as s3://bucket/pool."""
    pool_cache_gb: float = Field(50.0, gt=0)
    """Bound on the CTs of a pool at a URL that each machine keeps."""
    registry: str = "registry"
    """Folder of the registry, relative to the project."""
    preprocessing: Preprocessing = Preprocessing()
    base: BaseConfig = BaseConfig()
    heads: HeadConfig = HeadConfig()
    train: Optimisation = Optimisation()
    tune: Tuning = Tuning()
    inference: Inference = Inference()
    postprocess: dict[str, Cleaning] = Field(default_factory=dict)
    """[postprocess.CLASS]: how predicted masks are cleaned; names are brought to ctune's, as those of classes."""
    importance: ImportanceConfig = ImportanceConfig()
    selection: Selection = Selection()
    hybrid: Hybrid = Hybrid()
    evaluation: Evaluation = Evaluation()

    @field_validator("classes")
    @classmethod
    def _canonical(cls, classes: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        return ClassList.of(classes, info.data.get("aliases")).names

    @field_validator("postprocess")
    @classmethod
    def _named(cls, rules: dict[str, Cleaning], info: ValidationInfo) -> dict[str, Cleaning]:
        aliases = info.data.get("aliases")
        names = ClassList.of(rules, aliases)
        hosts = [canonical(rule.within, aliases) if rule.within else "" for rule in rules.values()]
        changed = [
            rule.model_copy(update={"within": host}) for rule, host in zip(rules.values(), hosts, strict=True)
        ]
        return dict(zip(names, changed, strict=True))

    @model_validator(mode="after")
    def _hosts(self) -> Config:
        for name in self.postprocess:
            chain = [name]
            while (host := self.postprocess.get(chain[-1], Cleaning()).within) and host not in chain:
                chain.append(host)
            if host:
                raise ValueError(
                    f"expected host organs without a circle, got {' within '.join([*chain, host])}"
                )
        return self

    @property
    def class_list(self) -> ClassList:
        return ClassList(self.classes)


_PRESETS: dict[str, Callable[[], dict[str, Any]]] = {"ct": dict, "phantom": phantom, "mr": mr}
PRESETS: tuple[str, ...] = tuple(_PRESETS)


def preset(name: str, /, **changes: Any) -> Config:
    """A named starting point with top-level `changes`, e.g. ``preset("phantom", seed=1)``. Raises ConfigError."""
    if name not in _PRESETS:
        raise ConfigError(f"expected one of the presets {', '.join(PRESETS)}; got {name!r}")
    return from_mapping({**_PRESETS[name](), **changes}, where=f"preset {name}")


def load(path: Path) -> Config:
    """Read ``ctune.toml``. Raises ConfigError with one line: which key, what was expected, what came."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"expected settings in {path}, found no such file; run `ctune init`") from None
    try:
        return from_mapping(tomllib.loads(text), where=str(path))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: expected TOML, got {error}") from None


def from_mapping(settings: dict[str, Any], where: str) -> Config:
    """Check settings. `where` names their origin in messages. Raises ConfigError."""
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_first_problem(error)}") from None


def dump(config: Config) -> str:
    """The settings as TOML text that ``load`` reads back to an equal Config."""
    import tomlkit

    settings = config.model_dump(mode="json")
    # TOML wants the plain keys of a table before its sub-tables.
    return tomlkit.dumps(dict(sorted(settings.items(), key=lambda item: isinstance(item[1], dict))))


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    location = ".".join(str(p) for p in problem["loc"] if p not in ("hu", "percentile"))
    if problem["type"] == "extra_forbidden":
        key = str(problem["loc"][-1])
        known = _known_keys(problem["loc"][:-1])
        hint = nearest(key, known)
        suggestion = f"did you mean {hint!r}?" if hint else f"known keys: {', '.join(sorted(known))}"
        return f"unknown key {location!r}; {suggestion}"
    got = problem.get("input")
    return f"{location or 'settings'}: {problem['msg']}; got {got!r}"


def _known_keys(path: tuple[int | str, ...]) -> list[str]:
    model: Any = Config
    for part in path:
        if part in ("hu", "percentile"):
            model = HUWindow if part == "hu" else PercentileWindow
            continue
        field = model.model_fields.get(part) if hasattr(model, "model_fields") else None
        if field is None:
            return []
        model = field.annotation
    return list(getattr(model, "model_fields", {}))

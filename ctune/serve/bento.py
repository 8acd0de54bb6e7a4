"""A Bento of a model: the model in BentoML's store, the sources that serving needs and no others, one small service around them."""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ctune import __version__
from ctune.errors import UsageError
from ctune.serve.exported import write_folder
from ctune.serve.source import Description, Source

INCLUDE = (
    "ctune/__init__.py",
    "ctune/py.typed",
    *(f"ctune/{name}.py" for name in ("classes", "config", "errors", "postprocess", "presets", "types")),
    *(
        f"ctune/data/{name}.py"
        for name in (
            "__init__", "annotations", "dicom_seg", "dicom_series", "exchange", "files", "gzip_blocks", "gzipped", "itksnap", "kinds",
            "labels", "nifti", "nrrd", "placing", "preprocess", "seg_nrrd", "segmentations", "terminology", "zipped",
        )
    ),
    "ctune/data/*.json",
    "ctune/importance/*.py",
    "ctune/inference/*.py",
    *(
        f"ctune/model/{name}.py"
        for name in ("__init__", "base", "feature_files", "features", "fingerprint", "heads", "network", "swin_unetr", "unet", "weights")
    ),
    *(
        f"ctune/serve/{name}.py"
        for name in (
            "__init__", "app", "bento_app", "exported", "faults", "graphs", "guard", "importance", "intake", "jobs", "memory", "metrics",
            "model", "openapi", "parts", "segment", "service", "source", "swap", "tokens", "upload", "work",
        )
    ),
    "ctune/serve/page/*",
    "ctune/review/page/vendor/*",
    "registry/wal.py",
)  # fmt: skip
"""What a Bento holds of ctune: reading, preparing, predicting, serving. Nothing that trains, tunes or keeps models: of the registry one file alone,
without the package's own, which would ask for a database."""

PACKAGES = (
    "torch", "einops", "monai", "numpy", "scipy", "nibabel", "isal", "safetensors", "pydantic", "filelock", "onnxruntime",
    "starlette", "python-multipart", "prometheus-client", "pynrrd", "pydicom", "highdicom",
)  # fmt: skip

_SERVICE = '''"""What `bentoml serve` runs: {tag} behind the service of ctune {ctune}."""

from pathlib import Path

import bentoml

from ctune.serve.bento_app import Exported, bento_app

exported = Exported()


# One process: one queue, one model in memory. The limits on time and numbers are those of the application.
# BentoML's own log tells paths as clients wrote them: it is off, the application tells what is needed.
@bentoml.service(
    name="{name}",
    workers=1,
    traffic={{"timeout": 86400}},
    metrics={{"enabled": False}},
    logging={{"access": {{"enabled": False}}}},
)
@bentoml.asgi_app(bento_app(exported), path="/")
class Segmenter:
    model = bentoml.models.BentoModel("{tag}")

    def __init__(self) -> None:
        exported.folder = Path(self.model.path)
'''


@dataclass(frozen=True)
class Bento:
    """What was made. tag: NAME:VERSION, of the Bento and of the model that it refers to; path: of the Bento."""

    tag: str
    path: Path
    runtime: str
    digest: str
    classes: tuple[str, ...]


def write_bento(source: Source, runtime: str, release: str = "") -> Bento:
    """Put the model that `source` means, and a Bento that serves it, into BentoML's stores (below ``BENTOML_HOME``).

    release: the version of both; by default that of the registry and the digest's beginning. Raises UsageError for one that is
    there already, and without bentoml.
    """
    bentoml = _import()
    name, about = _name(source.name), source.describe(source.resolve())
    tag = f"{name}:{release or _release(about)}"
    _must_be_new(bentoml, tag)
    with tempfile.TemporaryDirectory(prefix="ctune-bento-") as temporary:
        context = Path(temporary)
        document = write_folder(source, context / "model", runtime)
        labels = {"digest": document["digest"], "runtime": runtime, "ctune": __version__}
        with bentoml.models.create(tag, labels=labels) as kept:
            shutil.copytree(context / "model", kept.path, dirs_exist_ok=True)
        _copy_sources(context / "build")
        service = _SERVICE.format(tag=tag, name=name, ctune=__version__)
        (context / "build" / "service.py").write_text(service, encoding="utf-8")
        made = bentoml.build(
            "service:Segmenter",
            name=name,
            version=tag.partition(":")[2],
            labels=labels,
            include=["service.py", *INCLUDE],
            models=[tag],
            python={"packages": _requirements(), "lock_packages": False},
            docker={"env": {"BENTOML_DO_NOT_TRACK": "True"}},
            build_ctx=str(context / "build"),
        )
    return Bento(str(made.tag), Path(made.path), runtime, document["digest"], tuple(document["heads"]))


def _copy_sources(target: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for pattern in INCLUDE:
        for path in sorted(root.glob(pattern)):
            place = target / path.relative_to(root)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)


def _requirements() -> Sequence[str]:
    """The versions that run here: the release of a local build (+cpu) is what a package index knows."""
    return [f"{name}=={version(name).partition('+')[0]}" for name in PACKAGES]


def _release(about: Description) -> str:
    versions = about.card.get("versions") or [":0"]
    return f"{versions[-1].rpartition(':')[2]}-{about.digest[:12]}"


def _name(reference: str) -> str:
    return re.sub(r"[^a-z0-9._-]", "-", re.split("[@:]", reference)[0]) or "model"


def _must_be_new(bentoml: Any, tag: str) -> None:
    for kind, store in (("Bento", bentoml), ("model", bentoml.models)):
        if any(str(found.tag) == tag for found in store.list()):
            command = "bentoml delete" if kind == "Bento" else "bentoml models delete"
            raise UsageError(
                f"expected a new version, the {kind} {tag} is there already; give another --release or run `{command} {tag}`"
            )


def _import() -> Any:
    try:
        return importlib.import_module("bentoml")
    except ImportError:
        raise UsageError(
            "expected the extra 'serve' for a Bento, found no bentoml; run `pip install 'ctune[serve]'`"
        ) from None

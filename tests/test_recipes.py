"""The recipes of docs/scale.md: they parse, name what is there, and the pods are such as Kubernetes takes."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app

ROOT = Path(__file__).resolve().parents[1]
SLURM, KUBERAY = ROOT / "scripts" / "slurm_predict.sbatch", ROOT / "scripts" / "kuberay_predict.yaml"


def options_of(command: str) -> set[str]:
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200", "NO_COLOR": "1"}).stdout
    return set(re.findall(r"--[a-z][a-z-]*", shown))


@pytest.mark.parametrize("recipe", [SLURM, KUBERAY])
def test_a_recipe_names_options_that_there_are(recipe: Path) -> None:
    calls = re.findall(r"ctune (predict|score) ((?:[^\n\\]|\\\n)*)", recipe.read_text(encoding="utf-8"))
    assert calls
    for command, words in calls:
        assert set(re.findall(r"--[a-z][a-z-]*", words)) <= options_of(command)


def test_the_slurm_file_starts_ray_on_every_node_and_ctune_once(tmp_path: Path) -> None:
    """With stand-ins for Slurm, Ray and ctune that write down how they were called."""
    assert subprocess.run(["bash", "-n", str(SLURM)], check=False).returncode == 0
    log = tmp_path / "log"
    stand_ins = {
        "scontrol": "printf 'n1\\nn2\\nn3\\n'",
        "srun": 'while [[ $1 == --* ]]; do [[ $1 == --nodelist=* ]] && node=${1#*=}; shift; done; NODE=$node "$@"',
        "hostname": "echo 10.0.0.1 fe80::1",
        "ray": f'echo "$NODE ray $*" >>{log}',
        "ctune": f'echo "ctune $*" >>{log}',
        "sleep": ":",
    }
    for name, body in stand_ins.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{body}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(str(shutil.which('bash'))).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "SLURM_JOB_NODELIST": "n[1-3]", "SLURM_CPUS_PER_TASK": "16"}
    done = subprocess.run(
        ["bash", str(SLURM), "/project", "abdomen:3", "/out"], env=environment, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = log.read_text(encoding="utf-8").splitlines()
    assert sorted(line.split(" --")[0] for line in lines if " ray start" in line) == [
        "n1 ray start", "n2 ray start", "n3 ray start",
    ]  # fmt: skip
    assert sum("--head" in line for line in lines) == 1
    assert all("--address=10.0.0.1:6379" in line for line in lines if line.startswith(("n2", "n3")))
    asked = [line for line in lines if line.startswith("ctune")]
    assert asked[0].startswith("ctune predict abdomen:3 --project /project")
    assert all("--executor ray --address 10.0.0.1:6379" in line for line in asked) and len(asked) == 2


def an_object(required: str = "", **properties: object) -> dict[str, object]:
    """An object of these fields and no others: a misspelled one would be ignored by a cluster, or refused."""
    return {
        "type": "object",
        "properties": properties,
        "required": required.split(),
        "additionalProperties": False,
    }


NUMBER, TEXT, YES = {"type": "integer", "minimum": 0}, {"type": "string"}, {"type": "boolean"}
PARAMETERS = {"type": "object", "additionalProperties": TEXT}
RAY_JOB = an_object(
    "apiVersion kind metadata spec",
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=an_object("name", name=TEXT),
    spec=an_object(
        entrypoint=TEXT, shutdownAfterJobFinishes=YES, ttlSecondsAfterFinished=NUMBER, backoffLimit=NUMBER,
        activeDeadlineSeconds=NUMBER,
        rayClusterSpec=an_object(
            "headGroupSpec", rayVersion=TEXT,
            headGroupSpec=an_object("rayStartParams template", rayStartParams=PARAMETERS, template={"type": "object"}),
            workerGroupSpecs={"type": "array", "items": an_object(
                "groupName minReplicas maxReplicas rayStartParams template",
                groupName=TEXT, replicas=NUMBER, minReplicas=NUMBER, maxReplicas=NUMBER, numOfHosts=NUMBER,
                rayStartParams=PARAMETERS, template={"type": "object"},
            )},
        ),
    ),
)  # fmt: skip
"""The fields that a recipe may use, their types and which must be there, after RayJobSpec, RayClusterSpec, HeadGroupSpec and
WorkerGroupSpec of ray-project/kuberay, ray-operator/apis/ray/v1/rayjob_types.go and raycluster_types.go."""


def test_the_job_is_one_of_kuberay() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    jsonschema = pytest.importorskip(
        "jsonschema", reason="needs jsonschema, which kubernetes-validate brings"
    )
    job = yaml.safe_load(KUBERAY.read_text(encoding="utf-8"))
    jsonschema.validate(job, RAY_JOB)
    text = yaml.safe_dump(job)
    for right, wrong in (
        ("minReplicas", "minReplica"),
        ("entrypoint", "entryPoint"),
        ("num-cpus: '0'", "num-cpus: 0"),
    ):
        assert right in text
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(yaml.safe_load(text.replace(right, wrong)), RAY_JOB)


def test_the_image_of_the_job_has_ray() -> None:
    recipe = KUBERAY.read_text(encoding="utf-8")
    (extras,) = re.findall(r"build-arg EXTRAS=(\S+) -t ctune:ray", recipe)
    assert "ray" in extras.split(",") and recipe.count("image: ctune:ray") == 2
    assert 'pip install -c constraints.txt ".[${EXTRAS}]"' in (ROOT / "Dockerfile").read_text(
        encoding="utf-8"
    )


def test_the_pods_are_valid() -> None:
    """By the published schema of pods."""
    yaml = pytest.importorskip("yaml", reason="needs PyYAML")
    cluster = yaml.safe_load(KUBERAY.read_text(encoding="utf-8"))["spec"]["rayClusterSpec"]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert f"ray=={cluster['rayVersion']}\n" in pins, "the version that is tested"
    (workers,) = cluster["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    validate = pytest.importorskip("kubernetes_validate", reason="needs kubernetes-validate").validate
    for group in (cluster["headGroupSpec"], workers):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        validate(pod, "1.31", strict=True)

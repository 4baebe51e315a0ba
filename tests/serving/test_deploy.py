"""What is in deploy/ holds together, with itself and with the service; and serving needs no more than it installs."""

import json
import re
import shutil
import signal
import subprocess
import sys
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from medcode_serving.settings import load_inference_settings

PROJECT = Path(__file__).parents[2]
DEPLOY = PROJECT / "deploy"
BASE = DEPLOY / "kubernetes" / "base"
VERSION = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["version"]
NOT_MANIFESTS = {"kustomization.yaml", "inference-config.yaml"}

MANIFESTS = {path.name: path for path in BASE.glob("*.yaml") if path.name not in NOT_MANIFESTS}


def manifest(name: str) -> dict[str, Any]:
    return yaml.safe_load(MANIFESTS[name].read_text())


def validate(documents: list[dict[str, Any]]) -> None:
    for document in documents:
        kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)


def test_manifests_are_what_kubernetes_expects() -> None:
    validate([manifest(name) for name in MANIFESTS])
    kustomization = yaml.safe_load((BASE / "kustomization.yaml").read_text())
    assert sorted(kustomization["resources"]) == sorted(MANIFESTS)


def test_manifests_agree_with_each_other() -> None:
    deployment, service = manifest("deployment.yaml"), manifest("service.yaml")
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == labels
    assert service["spec"]["selector"] == labels
    assert manifest("poddisruptionbudget.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("networkpolicy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    target = manifest("hpa.yaml")["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])

    pod = deployment["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert manifest("networkpolicy.yaml")["spec"]["ingress"][0]["ports"] == [{"port": port["name"]}]
    assert manifest("networkpolicy.yaml")["spec"]["egress"] == []
    assert pod["serviceAccountName"] == manifest("serviceaccount.yaml")["metadata"]["name"]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == set(volumes)
    claim = manifest("persistentvolumeclaim.yaml")["metadata"]["name"]
    assert volumes["models"]["persistentVolumeClaim"] == {"claimName": claim, "readOnly": True}


def test_manifests_agree_with_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    from medcode_serving.api.app import create_app
    from medcode_serving.api.metrics import Metrics

    for name, value in image_environment().items():
        if name.startswith("MEDCODE_"):
            monkeypatch.setenv(name, value)
    settings = load_inference_settings(BASE / "inference-config.yaml")
    pod = manifest("deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["ports"][0]["containerPort"] == settings.api.port
    assert pod["terminationGracePeriodSeconds"] > (
        settings.api.shutdown_s + container["lifecycle"]["preStop"]["sleep"]["seconds"]
    )
    mounts = {Path(mount["mountPath"]) for mount in container["volumeMounts"]}
    assert settings.model.home in mounts
    assert settings.api.keys_file is not None
    assert settings.api.keys_file.parent in mounts
    assert Path(container["args"][-1]).parent in mounts

    probes = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert probes == {"/health/startup", "/health/live", "/health/ready"}
    assert probes <= set(create_app(load_inference_settings()).openapi()["paths"])
    metric = manifest("hpa.yaml")["spec"]["metrics"][0]["pods"]["metric"]["name"]
    assert metric in {family.name for family in Metrics().registry.collect()}
    assert metric in (DEPLOY / "kubernetes" / "examples" / "prometheus-adapter.yaml").read_text()


def test_the_pod_has_no_rights() -> None:
    pod = manifest("deployment.yaml")["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    writable = [mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")]
    assert writable == ["tmp"]
    (tmp,) = [volume for volume in pod["volumes"] if volume["name"] == "tmp"]
    assert tmp["emptyDir"]["medium"] == "Memory"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl, which builds kustomizations offline")
def test_the_gpu_overlay_adds_a_gpu() -> None:
    command = ["kubectl", "kustomize", str(DEPLOY / "kubernetes" / "gpu")]
    built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    validate(built)
    (deployment,) = [document for document in built if document["kind"] == "Deployment"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == f"medcode-serving:{VERSION}-cuda"
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"}
    assert {variable["name"] for variable in container["env"]} == {"OMP_NUM_THREADS", "MEDCODE_SERVE_DEVICE"}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions: comments dropped, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", (DEPLOY / "serving.Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", "").splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def image_environment() -> dict[str, str]:
    """What the image sets, and what goes before any mounted file of settings."""
    return dict(pair.split("=", 1) for name, rest in instructions() if name == "ENV" for pair in rest.split())


def test_compose_tells_where_the_keys_are() -> None:
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    serving = compose["services"]["serving"]
    (secret,) = serving["secrets"]
    assert secret in compose["secrets"]
    assert serving["environment"] == {"MEDCODE_SERVE_API__KEYS_FILE": f"/run/secrets/{secret}"}
    home = image_environment()["MEDCODE_SERVE_MODEL__HOME"]
    assert [volume["target"] for volume in serving["volumes"]] == [f"{home}/bundles", f"{home}/base_models"]


def test_the_image_runs_without_rights() -> None:
    found = instructions()
    names = [name for name, _ in found]
    last = dict(found)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"])
    assert json.loads(last["ENTRYPOINT"]) == ["medcode"]
    assert json.loads(last["CMD"]) == ["serve", "--host", "0.0.0.0"]
    assert "/health/live" in last["HEALTHCHECK"]
    assert "ADD" not in names
    for image in (rest for name, rest in found if name == "FROM"):
        assert re.fullmatch(r"python:\d+\.\d+-slim( AS \w+)?", image)
    assert names.index("USER") > len(names) - 1 - names[::-1].index("COPY"), "what is copied belongs to root"
    assert any(name == "LABEL" and f'version="{VERSION}"' in rest for name, rest in found)
    assert (
        f"medcode-serving:{VERSION}"
        == yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["serving"]["image"]
    )
    sent = (DEPLOY / "serving.Dockerfile.dockerignore").read_text().splitlines()
    copied = [rest.split()[:-1] for name, rest in found if name == "COPY" and "--from" not in rest]
    assert "*" in sent
    assert {f"!{source}" for sources in copied for source in sources} == {line for line in sent if line[0] == "!"}


ASSETS_ALONE = [
    *("dagster", "dagster_duckdb", "dagster_pipes", "dagster_webserver", "datasets", "duckdb", "gguf", "kubernetes"),
    *("matplotlib", "mlflow", "optuna", "scipy", "sklearn"),
]
"""Packages of the extra `assets` that no package of the base set needs."""
WITHOUT_ASSETS = f"""
import sys

class Hiding:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in {ASSETS_ALONE} else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Hiding, sys.meta_path)
from medcode_assets.cli import main
main()
"""


def test_medcode_serves_with_the_base_set_alone(tmp_path: Path) -> None:
    """Without a bundle: loading a model would double the time and is nothing of the asset side's."""
    flags = ["serve", "--port", "0", "--output-dir", str(tmp_path), "--device", "cpu"]
    command = [sys.executable, "-c", WITHOUT_ASSETS, *flags]
    no_proxy = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            address, seen = None, []
            for line in process.stderr:
                seen.append(line)
                if address := re.search(r"http://127\.0\.0\.1:\d+", line):
                    break
            assert address, "".join(seen)
            with no_proxy.open(f"{address[0]}/health/live") as response:
                assert response.status == 204
            with no_proxy.open(f"{address[0]}/health") as response:
                assert "no bundle of recipe 'icd' is published yet" in json.load(response)["reason"]
            with pytest.raises(urllib.error.HTTPError, match="503"):
                no_proxy.open(f"{address[0]}/health/startup")
        finally:
            process.terminate()  # STOPSIGNAL
        process.stderr.read()
    assert process.returncode in (0, -signal.SIGTERM)

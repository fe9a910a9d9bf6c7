"""The files in deploy/: images by digest, a service without rights, and no connection out of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[1] / "deploy"


def manifests() -> dict[str, dict[str, Any]]:
    text = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
    found = list(yaml.safe_load_all(text))
    assert len({entry["kind"] for entry in found}) == len(found)
    return {entry["kind"]: entry for entry in found}


def test_the_base_image_is_pinned_by_digest() -> None:
    text = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
    stages = set(re.findall(r"^FROM .* AS (\S+)$", text, re.MULTILINE))
    bases = set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) - stages
    assert len(bases) == 1
    assert re.fullmatch(r"python:\d\.\d+\.\d+-slim-\w+@sha256:[0-9a-f]{64}", bases.pop())
    assert "# syntax=" not in text  # another image that would have to be pinned


def test_the_image_installs_only_hashed_files() -> None:
    text = re.sub(r"\\\n\s*", "", (DEPLOY / "Dockerfile").read_text(encoding="utf-8"))
    installs = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]*", text)
    assert len(installs) == 6
    for install in installs:
        assert "--require-hashes" in install or "--no-deps" in install
    for lock in re.findall(r"locks/(\w+)\.lock", text):
        assert (DEPLOY / "locks" / f"{lock}.lock").is_file()


def test_the_pods_have_no_rights_and_bounded_resources() -> None:
    pod = manifests()["Deployment"]["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["runAsGroup"] == 10001
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert set(container["resources"]["limits"]) >= {"cpu", "memory"}
        writable = [
            mount["name"] for mount in container["volumeMounts"] if not mount.get("readOnly")
        ]
        assert writable == ["scratch"]
    (scratch,) = (volume for volume in pod["volumes"] if volume["name"] == "scratch")
    assert "sizeLimit" in scratch["emptyDir"]


def test_only_the_port_is_reached_and_nothing_from_it() -> None:
    found = manifests()
    pods = found["Deployment"]["spec"]["template"]
    policy = found["NetworkPolicy"]["spec"]
    assert policy["podSelector"]["matchLabels"] == pods["metadata"]["labels"]
    assert set(policy["policyTypes"]) == {"Ingress", "Egress"}
    assert policy["egress"] == []
    (rule,) = policy["ingress"]
    assert [port["port"] for port in rule["ports"]] == ["http"]
    assert pods["spec"]["containers"][0]["ports"][0]["name"] == "http"
    namespaces = [source["namespaceSelector"]["matchLabels"] for source in rule["from"]]
    assert all(labels for labels in namespaces)  # an empty selector would allow all namespaces
    assert found["Service"]["spec"]["selector"] == pods["metadata"]["labels"]

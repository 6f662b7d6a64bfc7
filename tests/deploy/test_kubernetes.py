"""deploy/kubernetes/: read by the schemas of many versions, and run by an engine that plays Kubernetes' own files."""

from __future__ import annotations

import copy
import importlib
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import process
from tests.harness.engine import Engine
from tests.harness.manifests import Document, PlayedPod, find, read_manifest
from tests.harness.node import PODS, Node, name_images
from tests.integration.acl import DENYING, policy, take_over, token

ROOT: Final = Path(__file__).parents[2]
FILES: Final = sorted((ROOT / "deploy" / "kubernetes").glob("*.yaml"))
DOCUMENTS: Final = [document for file in FILES for document in read_manifest(file)]
DEPLOYMENTS: Final = [document for document in DOCUMENTS if document["kind"] == "Deployment"]
HOST: Final = "app.example.com"
NUMBERS: Final = itertools.count(1)
Play = Callable[[str], PlayedPod]

of_deployments = pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda found: found["metadata"]["name"])


# --- read


@pytest.fixture(scope="module")
def schemas() -> Any:
    """Imported here: it takes four seconds, and every worker collects every test."""
    return importlib.import_module("kubernetes_validate")


def test_every_document_is_valid_in_every_version(schemas: Any) -> None:
    for version in sorted(set(schemas.utils.all_versions())):
        for document in DOCUMENTS:
            schemas.validate(document, version, strict=True)


def test_a_misspelled_field_is_not_valid(schemas: Any) -> None:
    """The validation above can fail."""
    wrong = copy.deepcopy(find(DOCUMENTS, "Deployment", "proxygen"))
    wrong["spec"]["template"]["spec"]["shareProcessNamespaces"] = True
    with pytest.raises(schemas.ValidationError, match="shareProcessNamespaces"):
        schemas.validate(wrong, schemas.utils.latest_version(), strict=True)


@of_deployments
def test_pods_meet_the_restricted_pod_security_standard_and_more(deployment: Document) -> None:
    spec = deployment["spec"]["template"]["spec"]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys()
    assert {next(key for key in volume if key != "name") for volume in spec["volumes"]} <= {
        *("configMap", "secret", "emptyDir"),
    }
    for container in spec["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["limits"]["memory"]


@of_deployments
def test_what_a_pod_mounts_follows_changes(deployment: Document) -> None:
    """A file that is mounted by itself (subPath) stays as it was, and a link cannot be renamed over it."""
    spec = deployment["spec"]["template"]["spec"]
    for container in spec["containers"]:
        assert all("subPath" not in mount for mount in container["volumeMounts"])
        assert {mount["name"] for mount in container["volumeMounts"]} <= {volume["name"] for volume in spec["volumes"]}


def test_everything_selects_the_pods_that_it_is_for() -> None:
    """Labels are the only tie between these documents, and a wrong one is no error anywhere."""
    pods = find(DOCUMENTS, "Deployment", "proxygen")["spec"]["template"]
    selectors = [
        find(DOCUMENTS, "Service", "proxygen")["spec"]["selector"],
        find(DOCUMENTS, "PodDisruptionBudget", "proxygen")["spec"]["selector"]["matchLabels"],
        find(DOCUMENTS, "NetworkPolicy", "proxygen")["spec"]["podSelector"]["matchLabels"],
        *(each["labelSelector"]["matchLabels"] for each in pods["spec"]["topologySpreadConstraints"]),
    ]
    assert all(selector == pods["metadata"]["labels"] for selector in selectors)
    ports = {port["name"] for container in pods["spec"]["containers"] for port in container["ports"]}
    policy_ports = [
        port["port"]
        for rule in find(DOCUMENTS, "NetworkPolicy", "proxygen")["spec"]["ingress"]
        for port in rule["ports"]
    ]
    assert {
        *policy_ports,
        *(port["targetPort"] for port in find(DOCUMENTS, "Service", "proxygen")["spec"]["ports"]),
    } <= ports


def test_a_canary_differs_in_its_name_its_image_and_its_share_alone() -> None:
    stable, canary = find(DOCUMENTS, "Deployment", "web"), copy.deepcopy(find(DOCUMENTS, "Deployment", "web-canary"))
    container = canary["spec"]["template"]["spec"]["containers"][0]
    container["env"].remove({"name": "PROXYGEN_REGISTER_CANARY", "value": "10%"})
    container["image"] = stable["spec"]["template"]["spec"]["containers"][0]["image"]
    canary["metadata"]["name"] = "web"
    canary["spec"]["replicas"] = stable["spec"]["replicas"]
    assert _relabelled(canary) == stable


def _relabelled(value: Any) -> Any:
    """The same with the label of the canary replaced by that of stable."""
    if isinstance(value, dict):
        return {key: _relabelled(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_relabelled(part) for part in value]
    return "stable" if value == "canary" else value


# --- run


@pytest.fixture(scope="module")
def node(
    yard: Engine, proxygen_image: str, example_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node with a Consul that denies by default, and the images under the names that the manifests use."""
    scratch = tmp_path_factory.mktemp("kubernetes")
    name_images(yard, proxygen_image, example_images)
    with Node(yard, scratch / "node", consul=DENYING) as node:
        take_over(node.consul)
        yield node


@pytest.fixture(scope="module")
def play(node: Node, tmp_path_factory: pytest.TempPathFactory) -> Play:
    """Start the pod of a Deployment, with a token that has the least rights."""
    directory = tmp_path_factory.mktemp("pods")
    addresses = (address for address in PODS.hosts() if address > PODS.network_address + 9)
    rights = {"proxygen": "sidecar", "web": "application", "web-canary": "application"}

    def start(name: str) -> PlayedPod:
        deployment = find(DOCUMENTS, "Deployment", name)
        volumes = deployment["spec"]["template"]["spec"]["volumes"]
        secrets = [volume["secret"]["secretName"] for volume in volumes if "secret" in volume]
        configs = [volume["configMap"]["name"] for volume in volumes if "configMap" in volume]
        given = token(node.consul, policy(rights[name]))
        pod = PlayedPod(node, deployment, address=next(addresses))
        pod.start(
            *(find(DOCUMENTS, "ConfigMap", config) for config in configs),
            secrets={each: {"token": given} for each in secrets},
            directory=directory,
        )
        return pod

    return start


@pytest.fixture(scope="module")
def pod(play: Play) -> PlayedPod:
    """nginx and the sidecar, before anybody has registered."""
    pod = play("proxygen")
    for name in ("nginx", "proxygen"):
        process.wait_until(lambda: pod.probe(name, "startup") == 200, what=f"{name} started", timeout=60)  # noqa: B023
    return pod


@pytest.fixture(scope="module")
def web(node: Node, play: Play, pod: PlayedPod) -> PlayedPod:
    """The application's stable pod, once the proxy's sends it requests."""
    web = play("web")
    process.wait_steady(lambda: ask(node, pod)[0] == 200, what="the application behind nginx", timeout=60)
    return web


def ask(node: Node, pod: PlayedPod, path: str = "/") -> tuple[int, str]:
    return node.ask(f"http://{pod.address}:8080{path}", Host=HOST)


def generation(pod: PlayedPod) -> str:
    return pod.node.podman(
        "exec", pod.container("proxygen"), "python3", "-c", "import os; print(os.readlink('current'))"
    )


@pytest.mark.slow
def test_a_pod_is_ready_once_it_serves_a_generation(pod: PlayedPod) -> None:
    process.wait_until(lambda: pod.probe("nginx", "readiness") == 200, what="the pod ready", timeout=60)
    assert pod.probe("nginx", "liveness") == 200
    assert pod.probe("proxygen", "liveness") == 200


@pytest.mark.slow
def test_a_request_reaches_an_application_that_registered_itself(node: Node, pod: PlayedPod, web: PlayedPod) -> None:
    status, body = ask(node, pod)
    assert status == 200
    assert json.loads(body)["version"] == "1"
    (instance,) = node.consul.instances("web")
    assert instance["Service"]["Address"] == str(web.address)
    assert [check["Status"] for check in instance["Checks"]] == ["passing"] * len(instance["Checks"])


@pytest.mark.slow
def test_the_canary_gets_its_share(node: Node, pod: PlayedPod, web: PlayedPod, play: Play) -> None:
    canary = play("web-canary")
    process.wait_until(lambda: canary.name in sample(node, pod, 60)[0], what="the canary's first request", timeout=60)
    instances, failures = sample(node, pod, 1000)
    assert not failures
    # Four standard deviations of 10 % of 1,000 requests.
    assert instances[canary.name] == pytest.approx(100, abs=38)
    assert instances[web.name] == 1000 - instances[canary.name]
    load = node.start_load(pod.address, 8080, HOST, count=800, pause=0.03)
    canary.remove()
    instances, failures = load.result()
    assert not failures
    assert len(node.consul.instances("web")) == 1
    assert set(sample(node, pod, 50)[0]) == {web.name}


@pytest.mark.slow
def test_the_sidecar_ends_and_nobody_notices(node: Node, pod: PlayedPod, web: PlayedPod) -> None:
    before = generation(pod)
    load = node.start_load(pod.address, 8080, HOST, count=500, pause=0.03)
    node.crash(pod.container("proxygen"))
    process.wait_until(lambda: pod.probe("proxygen", "startup") == 200, what="the sidecar back", timeout=60)
    assert load.result()[1] == {}
    assert generation(pod) == before
    see_a_change(node, pod)


@pytest.mark.slow
def test_nginx_ends_and_is_back_with_the_generation_that_it_had(node: Node, pod: PlayedPod, web: PlayedPod) -> None:
    before, sidecar = generation(pod), node.pid(pod.container("proxygen"))
    node.crash(pod.container("nginx"))
    process.wait_until(lambda: pod.probe("nginx", "readiness") == 200, what="nginx back", timeout=60)
    assert ask(node, pod)[0] == 200
    assert generation(pod) == before, pod.log("proxygen")
    assert node.pid(pod.container("proxygen")) == sidecar
    see_a_change(node, pod)


@pytest.mark.slow
def test_a_pod_stays_ready_without_consul(node: Node, pod: PlayedPod, web: PlayedPod) -> None:
    """All pods lose it together: were they not ready, nobody would serve."""
    node.consul.kill()
    node.crash(pod.container("proxygen"))
    process.wait_until(lambda: pod.probe("proxygen", "startup") == 200, what="the sidecar back", timeout=60)
    assert pod.node.ask(f"http://{pod.address}:18081/readyz")[0] == 503
    assert pod.probe("nginx", "readiness") == 200
    assert pod.probe("proxygen", "liveness") == 200
    assert ask(node, pod)[0] == 200
    node.consul.start(wait=False)
    process.wait_until(lambda: is_up(node), what="Consul back, with what it had stored", timeout=60)
    see_a_change(node, pod)
    # An agent that starts calls an instance critical until it has asked it.
    process.wait_steady(lambda: ask(node, pod)[0] == 200, what="the application found healthy again", timeout=60)


@pytest.mark.slow
def test_a_pod_finishes_what_it_has_begun(node: Node, pod: PlayedPod, web: PlayedPod) -> None:
    begun = node.begin(f"http://{pod.address}:8080/slow?seconds=9", Host=HOST)
    # It asks nginx to end after 5 s, and returns once it is gone.
    pod.run_pre_stop("nginx")
    assert begun.answer()[0] == 200
    # As the kubelet does where only the container ended; it may have been quicker.
    node.podman("start", pod.container("nginx"))
    process.wait_steady(lambda: ask(node, pod)[0] == 200, what="nginx back", timeout=60)


def is_up(node: Node) -> bool:
    try:
        return bool(node.consul.get("/v1/catalog/nodes"))
    except RuntimeError:
        # It does not know its own tokens before it has read its data.
        return False


def sample(node: Node, pod: PlayedPod, count: int) -> tuple[dict[str, int], dict[str, int]]:
    return node.start_load(pod.address, 8080, HOST, count=count, pause=0).result()


def see_a_change(node: Node, pod: PlayedPod) -> None:
    """A service comes: the sidecar hears of it, nginx reloads, and the reload is proven. It stays: were one after the
    other to go, the sidecar would hold that as a loss."""
    before = generation(pod)
    name = f"seen-{next(NUMBERS)}"
    node.consul.register(name, address=str(PODS[1]), port=9, tags=[f"proxygen.route={name}.example.com"])
    process.wait_until(lambda: generation(pod) > before, what="another generation", timeout=60)
    process.wait_until(
        lambda: node.ask(f"http://{pod.address}:8080/", Host=f"{name}.example.com")[0] == 502,
        what=f"{name}'s instance, which is not there, behind nginx",
    )
    # An nginx that ends before its reload is proven has it taken back.
    process.wait_until(lambda: is_proven(pod), what="the proof of the last reload")


def is_proven(pod: PlayedPod) -> bool:
    """Whether what `current` names is live; until then it is on its way."""
    status, body = pod.node.ask(f"http://{pod.address}:18081/api/v1/status")
    return status == 200 and int(generation(pod).rpartition("/")[2]) == json.loads(body)["live"]["number"]

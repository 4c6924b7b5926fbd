"""Rules for a RayJob of KubeRay: what the operator, the scheduler or Ray would find out only once pods run."""

import re
from collections.abc import Iterator

from sweeper.cluster.findings import Finding
from sweeper.cluster.known import RAY_JOB
from sweeper.cluster.located import Located
from sweeper.cluster.source import Rule, Source, misspelt, pinned, words_of
from sweeper.cluster.start_commands import HEALTH

GPU = "nvidia.com/gpu"
AUTOSCALER = "RAY_enable_autoscaler_v2"


def groups(source: Source) -> list[tuple[str, Located]]:
    """Return the head's group and the workers' groups with their names."""
    cluster = source.root.at("spec", "rayClusterSpec")
    workers = [(group["groupName"].text() or "a worker group", group) for group in cluster["workerGroupSpecs"].entries()]
    return [("headGroupSpec", cluster["headGroupSpec"]), *workers]


def keys(source: Source) -> Iterator[Finding]:
    """Misspelt fields; Kubernetes drops or refuses them."""
    yield from misspelt(source.root["spec"], RAY_JOB, "spec")


def required(source: Source) -> Iterator[Finding]:
    """What a RayJob cannot do without."""
    root, spec = source.root, source.root["spec"]
    if not root["apiVersion"].text().startswith("ray.io/"):
        yield Finding(root.line_of("apiVersion"), f"apiVersion must be ray.io/v1, got {root['apiVersion'].text()!r}")
    if root.at("metadata", "name").is_missing:
        yield Finding(root.line_of("metadata"), "metadata.name is missing")
    if not spec["entrypoint"].text():
        yield Finding(root.line_of("spec"), "spec.entrypoint is missing; it is the command that the job runs")
    if spec["rayClusterSpec"].is_missing and spec["clusterSelector"].is_missing:
        yield Finding(root.line_of("spec"), "spec.rayClusterSpec is missing; it describes the cluster to run on")
        return
    for name, group in groups(source) if not spec["rayClusterSpec"].is_missing else ():
        containers = group.at("template", "spec", "containers")
        if not containers.value:
            yield Finding(containers.line, f"{name}.template.spec.containers is missing; the first container runs Ray")
        for container in containers.entries()[:1]:
            for key in ("name", "image"):
                if not container[key].text():
                    yield Finding(container.line, f"the container of {name} has no {key}")


def entrypoint(source: Source) -> Iterator[Finding]:
    """The driver joins the cluster, and results outlive it."""
    spec = source.root["spec"]
    told = spec["entrypoint"]
    words = words_of(told.text())
    for word in words:
        if word in ("||", "&&", "|", "&") or word.endswith(";"):
            yield Finding(told.line, f"the pod that submits pastes the entrypoint into a shell line of its own, which reads {word!r}; make it one "
                          "word: sh -c '…'")  # fmt: skip
            break
    if words[:2] in (["sh", "-c"], ["bash", "-c"]) and len(words) == 3:
        words = words_of(words[2])
    if "sweeper" not in words:
        return
    if spec["backoffLimit"].number() and not re.search(r"\s-(eq|le) 1\b", told.text()):
        yield Finding(spec.line_of("backoffLimit"), "backoffLimit starts another cluster also when the sweep ended with status 1: trials failed by "
                      "themselves, which are not run again; make it sh -c '…; s=$?; test $s -le 1 || exit $s'", level="advice")  # fmt: skip
    if "--address" not in words:
        yield Finding(told.line, "the entrypoint has no --address auto; the sweep would run on the head's pod alone")
    place = words.index("--results") + 1 if "--results" in words else 0
    if not place or "://" not in words[place : place + 1][0]:
        yield Finding(told.line, "the entrypoint's --results names no object store; a folder within the pods is gone with them", level="advice")


def versions(source: Source) -> Iterator[Finding]:
    """rayVersion, the images and the Ray of this machine are one."""
    told = source.root.at("spec", "rayClusterSpec", "rayVersion")
    if told.is_missing:
        yield Finding(told.line, "rayClusterSpec.rayVersion is missing; KubeRay decides by it how to start the autoscaler and to submit")
    elif told.text() != pinned()["ray"]:
        yield Finding(told.line, f"rayVersion {told.text()} is not the Ray used here, {pinned()['ray']}")
    for name, group in groups(source):
        for container in group.at("template", "spec", "containers").entries()[:1]:
            image = container["image"]
            tag = re.search(r":[^:/]*?(\d+\.\d+\.\d+)[^:/]*$", image.text())
            if image.text() and not tag:
                yield Finding(image.line, f"the image {image.text()!r} of {name} has no Ray version in its tag; pin it", level="advice")
            elif tag and told.text() and tag[1] != told.text():
                yield Finding(image.line, f"the image of {name} is of Ray {tag[1]}, and rayVersion is {told.text()}")
            python = re.search(r"-py3(\d+)", image.text())
            if python and f"3.{python[1]}" != pinned()["Python"]:
                yield Finding(image.line, f"the image of {name} has Python 3.{python[1]}, and {pinned()['Python']} is used here")


def authentication(source: Source) -> Iterator[Finding]:
    """A token, from authOptions or from every container's environment."""
    cluster = source.root.at("spec", "rayClusterSpec")
    mode = cluster.at("authOptions", "mode")
    if mode.text() == "token":
        return
    if not mode.is_missing:
        yield Finding(mode.line, f"authOptions.mode is {mode.text()!r}; without token, every pod that reaches the head runs code there")
        return
    for name, group in groups(source):
        for container in group.at("template", "spec", "containers").entries()[:1]:
            told = {entry["name"].text(): entry for entry in container["env"].entries()}
            if told.get("RAY_AUTH_MODE", Located(None, 0, 0))["value"].text() != "token":
                yield Finding(container.line, f"{name} asks for no token; set rayClusterSpec.authOptions.mode: token")
            elif "RAY_AUTH_TOKEN" not in told or told["RAY_AUTH_TOKEN"].at("valueFrom", "secretKeyRef").is_missing:
                yield Finding(container.line, f"RAY_AUTH_TOKEN of {name} does not come from a Secret (valueFrom.secretKeyRef)")


def scaling(source: Source) -> Iterator[Finding]:
    """How many pods, and who ends them."""
    spec, cluster = source.root["spec"], source.root.at("spec", "rayClusterSpec")
    if cluster["enableInTreeAutoscaling"].value is not True:
        for name, group in groups(source)[1:]:
            if not group["replicas"].number():
                yield Finding(group.line, f"{name} has no replicas, and enableInTreeAutoscaling is not true; no worker is ever started")
    for name, group in groups(source)[1:]:
        if group["groupName"].is_missing:
            yield Finding(group.line, "a worker group has no groupName")
        least, now, most = (group[key].number() for key in ("minReplicas", "replicas", "maxReplicas"))
        if least is not None and most is not None and least > most:
            yield Finding(group.line_of("minReplicas"), f"{name}.minReplicas {least:g} is more than maxReplicas {most:g}")
        if now is not None and most is not None and now > most:
            yield Finding(group.line_of("replicas"), f"{name}.replicas {now:g} is more than maxReplicas {most:g}")
    if spec["ttlSecondsAfterFinished"].number() and spec["shutdownAfterJobFinishes"].value is not True:
        yield Finding(spec.line_of("ttlSecondsAfterFinished"), "ttlSecondsAfterFinished does nothing unless shutdownAfterJobFinishes is true")
    elif spec["shutdownAfterJobFinishes"].value is not True:
        yield Finding(source.root.line_of("spec"), "shutdownAfterJobFinishes is not true; the pods stay, and are paid for", level="advice")


def autoscaler(source: Source) -> Iterator[Finding]:
    """Which autoscaler runs, and what each asks of pods."""
    cluster = source.root.at("spec", "rayClusterSpec")
    if cluster["enableInTreeAutoscaling"].value is not True:
        return
    options, pod = cluster["autoscalerOptions"], cluster.at("headGroupSpec", "template", "spec")
    version = options["version"]
    (_, head), *workers = groups(source)
    told = [entry for container in pod["containers"].entries()[:1] for entry in container["env"].entries() if entry["name"].text() == AUTOSCALER]
    if not version.is_missing and version.text() not in ("v1", "v2"):
        yield Finding(version.line, f"autoscalerOptions.version must be v1 or v2, got {version.text()!r}")
    if not version.is_missing and told:
        yield Finding(version.line, f"KubeRay refuses autoscalerOptions.version beside {AUTOSCALER} in the head's environment")
    is_first = bool(told) and told[0]["value"].text().lower() in ("0", "false")
    if not is_first:
        line = version.line if not version.is_missing else told[0].line if told else head.line
        reason = "older KubeRay does not hand v1 on" if version.text() == "v1" else "it starts nothing once more is asked for than maxReplicas allow"
        yield Finding(line, f"Ray's autoscaler is version 2, unless {AUTOSCALER} is \"0\" in the head's environment; {reason}", level="advice")
    elif pod["restartPolicy"].text() == "Never":
        yield Finding(pod.line_of("restartPolicy"), "restartPolicy Never of the head leaves the cluster without its autoscaler once that has failed "
                      "five times; version 1 counts on being started again", level="advice")  # fmt: skip
    for name, group in workers:
        if not group["idleTimeoutSeconds"].is_missing and version.text() != "v2":
            yield Finding(group.line_of("idleTimeoutSeconds"), f"KubeRay refuses {name}.idleTimeoutSeconds without autoscalerOptions.version v2")
        policy = group.at("template", "spec", "restartPolicy")
        if not policy.is_missing and policy.text() != "Never":
            yield Finding(policy.line, f"{name}'s restartPolicy must be Never, got {policy.text()!r}; started again, a pod is not removed when idle")


def resources(source: Source) -> Iterator[Finding]:
    """Ray counts limits, not requests; GPUs need a limit, and usually a toleration."""
    for name, group in groups(source):
        pod = group.at("template", "spec")
        for container in pod["containers"].entries()[:1]:
            limits = container.at("resources", "limits")
            for key in ("cpu", "memory"):
                if limits[key].is_missing:
                    yield Finding(limits.line, f"{name} has no resources.limits.{key}; Ray takes what the whole machine has")
            asks = container.at("resources", "requests", GPU)
            if not asks.is_missing and asks.text() != limits[GPU].text():
                yield Finding(asks.line, f"{name} requests {asks.text()} {GPU}, its limit is {limits[GPU].text() or 'missing'}; they must be equal")
            if not limits[GPU].is_missing and not any(entry["key"].text() in (GPU, "") for entry in pod["tolerations"].entries()):
                yield Finding(pod.line, f"{name} asks for {GPU} and tolerates no taint {GPU}; GPU machines usually have it", level="advice")
    heads = groups(source)[0][1].at("template", "spec", "containers").entries()[:1]
    for container in heads:
        told = {entry["name"].text() for entry in container["env"].entries()}
        if missing := [name for name in HEALTH if f"RAY_health_check_{name}" not in told]:
            yield Finding(container.line, f"the head's container does not set RAY_health_check_{missing[0]}; a silent node is noticed after a minute "
                          "only", level="advice")  # fmt: skip


RULES: tuple[Rule, ...] = (keys, required, entrypoint, versions, authentication, scaling, autoscaler, resources)

"""Rules for files of `ray up`: provider, machines, mounts and access. What Ray's own validation lets through, and a cloud refuses or charges for."""

import re
from collections.abc import Iterator
from pathlib import Path

from sweeper.cluster.findings import Finding
from sweeper.cluster.known import NODES, PROVIDERS
from sweeper.cluster.located import Located
from sweeper.cluster.source import Rule, Source, misspelt
from sweeper.lookup import nearest

_NEEDS = {
    "aws": {"region": "AWS starts nothing without one, such as us-west-2"},
    "gcp": {
        "region": "Google Cloud starts nothing without one, such as us-central1",
        "availability_zone": "Ray puts nodes into one zone, such as us-central1-a",
        "project_id": "the project that pays; Ray's default is none, and `ray up` fails",
    },
    "local": {"head_ip": "the address of the head", "worker_ips": "a list of the workers' addresses"},
}
_GPU_MACHINES = {"aws": (r"(p\d|g\d|gr\d)", "InstanceType"), "gcp": (r"(a\d|g\d)-", "machineType")}
_MARKETS = ("spot", "capacity-block")
_HEAVY = (".git", ".venv", "results")
_BRING_A_GROUP = ("SecurityGroupIds", "NetworkInterfaces", "LaunchTemplate")


def provider_of(source: Source) -> str:
    return source.root.at("provider", "type").text()


def keys(source: Source) -> Iterator[Finding]:
    """Misspelt keys of provider and node_config."""
    kind = provider_of(source)
    if kind and kind not in PROVIDERS:
        line = source.root["provider"].line_of("type")
        yield Finding(line, f"provider.type {kind!r} is not checked further here; checked are {', '.join(PROVIDERS)}", level="advice")
    yield from misspelt(source.root["provider"], PROVIDERS.get(kind, {}), "provider")
    for name, node in source.root["available_node_types"].items():
        yield from misspelt(node["node_config"], NODES.get(kind, {}), f"{name}.node_config")


def places(source: Source) -> Iterator[Finding]:
    """Region, zone, project and addresses."""
    provider, kind = source.root["provider"], provider_of(source)
    if not kind:
        missing = "provider" if provider.is_missing else "provider.type"
        yield Finding(source.root.line_of("provider"), f"{missing} is missing; it says whose machines are used: {', '.join(PROVIDERS)}")
    is_coordinated = kind == "local" and not provider["coordinator_address"].is_missing
    for key, reason in {} if is_coordinated else _NEEDS.get(kind, {}).items():
        if provider[key].value in (None, ""):
            line = source.root.line_of("provider") if provider[key].is_missing else provider.line_of(key)
            yield Finding(line, f"provider.{key} is missing; {reason}")
    region = provider["region"].text()
    for zone in (word.strip() for word in provider["availability_zone"].text().split(",")):
        if zone and region and not zone.startswith(region):
            yield Finding(provider.line_of("availability_zone"), f"provider.availability_zone {zone!r} is not in provider.region {region!r}")
    seen: set[str] = {provider["head_ip"].text()}
    for address in provider["worker_ips"].entries():
        if address.text() in seen:
            yield Finding(address.line, f"provider.worker_ips names {address.text()} twice, or the head; one machine is one node")
        seen.add(address.text())


def access(source: Source) -> Iterator[Finding]:
    """Who logs in, and with what key."""
    auth, kind = source.root["auth"], provider_of(source)
    if not auth["ssh_user"].text():
        line = source.root.line_of("auth") if not auth.is_missing else source.root.line
        yield Finding(line, "auth.ssh_user is missing; Ray cannot log in without one, such as ubuntu")
    private = auth["ssh_private_key"].text()
    if private and not Path(private).expanduser().exists():
        yield Finding(auth.line_of("ssh_private_key"), f"auth.ssh_private_key {private} does not exist on this machine")
    for name, node in source.root["available_node_types"].items() if private and kind == "aws" else ():
        config = node["node_config"]
        if config["KeyName"].is_missing and config["UserData"].is_missing:
            yield Finding(node.line_of("node_config"), f"{name}.node_config.KeyName is missing, and auth.ssh_private_key names a key of your own")


def mounts(source: Source) -> Iterator[Finding]:
    """What is copied to the nodes; `ray up` reads paths relative to the folder it runs in."""
    table = source.root["file_mounts"]
    for remote, local in table.items():
        path, line = Path(local.text()).expanduser(), table.line_of(remote)
        is_token = remote.endswith(".ray/auth_token")
        if not path.exists():
            from_here = f"`ray up` looks for it from the folder it runs in, here {Path.cwd()}"
            remedy = "`ray get-auth-token --generate` makes it" if is_token else from_here
            yield Finding(line, f"file_mounts source {local.text()!r} does not exist on this machine; {remedy}")
        elif is_token and path.stat().st_mode & 0o077:
            yield Finding(line, f"{local.text()} can be read by others on this machine; `chmod 600 {local.text()}`")
        elif path.is_dir() and (heavy := [name for name in _HEAVY if (path / name).exists()]):
            yield Finding(line, f"file_mounts source {local.text()!r} holds {heavy[0]}; Ray reads every file of it at each `ray up`, also what "
                          "rsync_exclude names; mount the folders that are needed", level="advice")  # fmt: skip


def node_types(source: Source) -> Iterator[Finding]:
    """Kinds of machines, how many, and what Ray believes of them."""
    types, head = source.root["available_node_types"], source.root["head_node_type"]
    names = [name for name, _ in types.items()]
    if names and head.text() and head.text() not in names:
        line = source.root.line_of("head_node_type")
        yield Finding(line, f"head_node_type {head.text()!r} is none of available_node_types: {', '.join(names)}{nearest(head.text(), names)}")
    most = source.root["max_workers"].number()
    for name, node in types.items():
        least, own = node["min_workers"].number() or 0, node["max_workers"].number()
        for limit, words in ((own, f"{name}.max_workers"), (most, "max_workers")):
            if limit is not None and least > limit:
                yield Finding(node.line_of("min_workers"), f"{name}.min_workers {least:g} is more than {words} {limit:g}")
        yield from _gpus(source, name, node, is_head=name == head.text())


def _gpus(source: Source, name: str, node: Located, *, is_head: bool) -> Iterator[Finding]:
    kind, config, resources = provider_of(source), node["node_config"], node["resources"]
    machine, has_gpu = _machine(kind, config)
    key = _GPU_MACHINES.get(kind, ("", ""))[1]
    asks = resources["GPU"].number()
    detects = kind == "aws" and asks is None  # Ray asks EC2 what the machine has
    if has_gpu and not is_head and not detects and not asks:
        yield Finding(node.line_of("resources"), f"{name} is a {machine}, which has a GPU, and its resources name none; no trial uses it")
    if key and machine and asks and not has_gpu:
        yield Finding(node.line_of("resources"), f"{name}.resources name {asks:g} GPU, and a {machine} has none; nodes are started for nothing")


def _machine(kind: str, config: Located) -> tuple[str, bool]:
    """Return the provider's name of a kind of machine, and whether it has a GPU."""
    pattern, key = _GPU_MACHINES.get(kind, ("(?!)", ""))
    machine = config[key].text()
    return machine, bool(re.match(pattern, machine)) or bool(config["guestAccelerators"].value)


def firewall(source: Source) -> Iterator[Finding]:
    """Who reaches the machines: a group that Ray makes has ssh from anywhere, everything within the group, and the rules of the file."""
    group = source.root.at("provider", "security_group")
    is_found = [any(not node["node_config"][key].is_missing for key in _BRING_A_GROUP) for _, node in source.root["available_node_types"].items()]
    if provider_of(source) == "aws" and group["GroupName"].is_missing and not all(is_found):
        line = source.root.line_of("provider") if group.is_missing else source.root["provider"].line_of("security_group")
        yield Finding(line, "provider.security_group.GroupName is missing; a group that Ray makes has ssh open to the world, and "
                      "deploy/aws-account.sh makes one with ssh from your addresses", level="advice")  # fmt: skip
    for rule in source.root.at("provider", "security_group", "IpPermissions").entries():
        ranges = [entry["CidrIp"] for entry in rule["IpRanges"].entries()] + [entry["CidrIpv6"] for entry in rule["Ipv6Ranges"].entries()]
        is_ssh = (rule["FromPort"].value, rule["ToPort"].value) == (22, 22)
        for span in ranges:
            if span.text() in ("0.0.0.0/0", "::/0") and not is_ssh:
                first, last = rule["FromPort"].text(), rule["ToPort"].text()
                ports = "every port" if first in ("", "-1", "0") else f"port {first}" if first == last else f"ports {first} to {last}"
                yield Finding(span.line, f"the security group opens {ports} to the world ({span.text()}); `ray dashboard` needs ssh only")


def machines_of_aws(source: Source) -> Iterator[Finding]:
    """Image, credentials, and what is paid for: spot or not, and after `ray down`."""
    if provider_of(source) != "aws":
        return
    provider, head = source.root["provider"], source.root["head_node_type"].text()
    if provider["cache_stopped_nodes"].value is not False:
        line = provider.line_of("cache_stopped_nodes") if not provider["cache_stopped_nodes"].is_missing else source.root.line_of("provider")
        yield Finding(line, "provider.cache_stopped_nodes is not false; `ray down` then stops machines, whose disks cost on", level="advice")
    for name, node in source.root["available_node_types"].items():
        config = node["node_config"]
        if config["InstanceType"].is_missing:
            yield Finding(node.line_of("node_config"), f"{name}.node_config.InstanceType is missing")
        if config["ImageId"].text().lower() in ("", "latest_dlami") and config["LaunchTemplate"].is_missing:
            line = node.line_of("node_config") if config["ImageId"].is_missing else config.line_of("ImageId")
            yield Finding(line, f"{name}.node_config.ImageId is missing; Ray's own default is Ubuntu 18.04 with CUDA 11.2, too old for today's torch")
        if config["IamInstanceProfile"].is_missing and name != head:
            line = node.line_of("node_config")
            yield Finding(line, f"{name} has no IamInstanceProfile; its trials cannot reach a results root on S3", level="advice")
        market = config.at("InstanceMarketOptions", "MarketType")
        if not market.is_missing and market.text() not in _MARKETS:
            yield Finding(market.line, f"{name}.node_config.InstanceMarketOptions.MarketType must be one of {', '.join(_MARKETS)}, got "
                          f"{market.text()!r}{nearest(market.text(), _MARKETS)}; without InstanceMarketOptions the machine is on demand")  # fmt: skip


def machines_of_google(source: Source) -> Iterator[Finding]:
    """What becomes of a machine with a GPU when its host is serviced: Google moves none, and starts none that asks to be moved."""
    for name, node in source.root["available_node_types"].items() if provider_of(source) == "gcp" else ():
        config = node["node_config"]
        if not _machine("gcp", config)[1]:
            continue
        plans = config["scheduling"].entries() or [config["scheduling"]]  # Ray's own examples have a list
        told = [plan["onHostMaintenance"] for plan in plans if not plan["onHostMaintenance"].is_missing]
        is_spot = any(plan["provisioningModel"].text() == "SPOT" or plan["preemptible"].value is True for plan in plans)
        if told and told[0].text() != "TERMINATE":
            got = told[0].text()
            yield Finding(told[0].line, f"{name} has a GPU, and its scheduling.onHostMaintenance is {got!r}; Google starts it with TERMINATE only")
        elif not told:
            line = node.line_of("node_config") if config["scheduling"].is_missing else config.line_of("scheduling")
            yield Finding(line, f"{name} has a GPU, and its scheduling has no onHostMaintenance: TERMINATE; Google refuses it, unless it is spot",
                          level="advice" if is_spot else "error")  # fmt: skip


RULES: tuple[Rule, ...] = (keys, places, access, mounts, node_types, firewall, machines_of_aws, machines_of_google)

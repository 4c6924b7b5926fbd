"""Every shipped cluster file passes `doctor --cluster`, and every rule finds the mistake it is for, at its line."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sweeper.cli import app
from sweeper.cluster import kubernetes, launcher, slurm, start_commands
from sweeper.cluster.files import check
from sweeper.cluster.findings import Finding
from sweeper.cluster.located import read_yaml

ROOT = Path(__file__).parents[1]
SHIPPED = ["cluster.yaml", "deploy/on-premise.yaml", "deploy/gcp.yaml", "deploy/kuberay.yaml", "deploy/slurm.sbatch"]
LAUNCHED = SHIPPED[:3]
AWS, LOCAL, GCP, KUBERAY, SLURM = SHIPPED
GROUP = "  security_group: {GroupName: ray-autoscaler-sweeper}\n"
OPEN = """  security_group:
    GroupName: ray-autoscaler-sweeper
    IpPermissions:
      - {IpProtocol: tcp, FromPort: 8265, ToPort: 8265, IpRanges: [{CidrIp: 0.0.0.0/0}]}
"""

# rule, file, what is replaced, by what, a piece of the line that is to be named, a piece of the sentence
MISTAKES = [
    ("launcher.keys", AWS, "IamInstanceProfile: {Name: sweeper-head}", "IamInstanceProfil: {}",
     "IamInstanceProfil:", "did you mean 'IamInstanceProfile'"),
    ("launcher.keys", AWS, "VolumeSize: 150", "VolumSize: 150", "VolumSize", "head.node_config.BlockDeviceMappings.Ebs (did you mean 'VolumeSize'"),
    ("launcher.keys", AWS, "  cache_stopped_nodes", "  cache_stoped_nodes", "cache_stoped_nodes", "did you mean 'cache_stopped_nodes'"),
    ("launcher.keys", GCP, "provisioningModel", "provisionModel", "provisionModel", "gpu.node_config.scheduling (did you mean 'provisioningModel'"),
    ("launcher.keys", LOCAL, "  head_ip: 192", "  head_addr: 1\n  head_ip: 192", "head_addr", "unknown key 'head_addr' in provider"),
    ("launcher.keys", AWS, "  type: aws", "  type: azure", "type: azure", "'azure' is not checked further here"),
    ("launcher.places", AWS, "  region: us-west-2 ", "  # ", "provider:", "provider.region is missing"),
    ("launcher.places", AWS, "\nprovider:\n", "\nmetadata:\n", None, "provider is missing; it says whose machines are used: aws"),
    ("launcher.places", AWS, "  type: aws\n", "", "provider:", "provider.type is missing; it says whose machines are used: aws"),
    ("launcher.places", AWS, "availability_zone: us-west-2a", "availability_zone: us-east-1a",
     "us-east-1a", "'us-east-1a' is not in provider.region"),
    ("launcher.places", GCP, "  availability_zone: ", "  # ", "provider:", "provider.availability_zone is missing"),
    ("launcher.places", GCP, "project_id: EDIT-project", "project_id: null", "project_id: null", "provider.project_id is missing"),
    ("launcher.places", LOCAL, "192.0.2.12]", "192.0.2.11]", "worker_ips", "names 192.0.2.11 twice"),
    ("launcher.places", LOCAL, "192.0.2.12]", "192.0.2.10]", "worker_ips", "or the head"),
    ("launcher.access", AWS, "  ssh_user: ubuntu", "  ssh_private_key: ~/.ssh/id_ed25519", "auth:", "auth.ssh_user is missing"),
    ("launcher.access", LOCAL, "~/.ssh/id_ed25519", "~/.ssh/absent", "~/.ssh/absent", "~/.ssh/absent does not exist"),
    ("launcher.access", AWS, "  ssh_user: ubuntu", "  ssh_user: ubuntu\n  ssh_private_key: ~/.ssh/id_ed25519",
     "    node_config:", "KeyName is missing"),
    ("launcher.mounts", AWS, "models: models", "models: modells", "modells", "'modells' does not exist on this machine"),
    ("launcher.mounts", AWS, "auth_token: ~/.ray/auth_token", "auth_token: ~/.ray/absent", "absent", "`ray get-auth-token --generate` makes it"),
    ("launcher.mounts", AWS, "auth_token: ~/.ray/auth_token", "auth_token: ~/.ray/readable", "readable", "chmod 600 ~/.ray/readable"),
    ("launcher.mounts", AWS, "~/sweeper/models: models", "~/sweeper: ~/heavy", "~/heavy", "holds .git; Ray reads every file of it"),
    ("launcher.node_types", AWS, "head_node_type: head", "head_node_type: heads",
     "head_node_type", "is none of available_node_types: head, gpu (did you mean"),
    ("launcher.node_types", GCP, "    min_workers: 0\n    max_workers: 10", "    min_workers: 11\n    max_workers: 10",
     "min_workers: 11", "gpu.max_workers 10"),
    ("launcher.node_types", GCP, "    min_workers: 0\n    max_workers: 10", "    min_workers: 11\n    max_workers: 12",
     "min_workers: 11", "max_workers 10"),
    ("launcher.node_types", AWS, "{CPU: 4, GPU: 1}", "{CPU: 4, GPU: 0}", "GPU: 0", "gpu is a g5.xlarge, which has a GPU"),
    ("launcher.node_types", GCP, "{CPU: 4, GPU: 1}", "{CPU: 4}", "resources: {CPU: 4}", "gpu is a g2-standard-4, which has a GPU"),
    ("launcher.node_types", AWS, "InstanceType: g5.xlarge", "InstanceType: m5.xlarge", "{CPU: 4, GPU: 1}", "a m5.xlarge has none"),
    ("launcher.firewall", AWS, GROUP, OPEN, "FromPort: 8265", "opens port 8265 to the world (0.0.0.0/0)"),
    ("launcher.firewall", AWS, GROUP, "", "provider:", "a group that Ray makes has ssh open to the world"),
    ("launcher.firewall", AWS, GROUP, OPEN.replace("GroupName: ray-autoscaler-sweeper\n    ", ""), "security_group:", "has ssh open to the world"),
    ("launcher.machines_of_aws", AWS, "cache_stopped_nodes: false", "cache_stopped_nodes: true", "cache_stopped_nodes", "whose disks cost on"),
    ("launcher.machines_of_aws", AWS, "      InstanceType: m5.xlarge", "      # ", "    node_config:", "InstanceType is missing"),
    ("launcher.machines_of_aws", AWS, "&image ami-EDIT", "&image latest_dlami", "latest_dlami", "Ray's own default is Ubuntu 18.04"),
    ("launcher.machines_of_aws", AWS, "IamInstanceProfile: {Name: sweeper-worker}", "Monitoring: {Enabled: true}",
     None, "cannot reach a results root on S3"),
    ("launcher.machines_of_aws", AWS, "MarketType: spot", "MarketType: spott",
     "MarketType: spott", "must be one of spot, capacity-block, got 'spott' (did you mean 'spot'?)"),
    ("launcher.machines_of_aws", AWS, "MarketType: spot", "MarketType: on-demand", "on-demand", "got 'on-demand'; without InstanceMarketOptions"),
    ("launcher.machines_of_google", GCP, "onHostMaintenance: TERMINATE\n", "onHostMaintenance: MIGRATE\n",
     "MIGRATE", "gpu has a GPU, and its scheduling.onHostMaintenance is 'MIGRATE'"),
    ("launcher.machines_of_google", GCP, """        provisioningModel: SPOT
        instanceTerminationAction: DELETE
        onHostMaintenance: TERMINATE
""", "", "scheduling:", "its scheduling has no onHostMaintenance: TERMINATE"),
    ("launcher.machines_of_google", GCP, "      scheduling: ", "      labels: ", "    node_config:", "its scheduling has no onHostMaintenance"),
    ("launcher.machines_of_google", GCP, "machineType: e2-standard-4", "guestAccelerators: [{acceleratorType: a, acceleratorCount: 1}]",
     "    node_config:", "head has a GPU, and its scheduling has no"),
    ("start_commands.presence", AWS, "worker_start_ray_commands:", "metadata: {a: b}\nworker_setup_commands:",
     None, "worker_start_ray_commands is missing"),
    ("start_commands.presence", LOCAL, "ray start --head", "ray status --head", "head_start_ray_commands", "does not run `ray start`"),
    ("start_commands.presence", LOCAL, "worker_start_ray_commands:\n  - ray stop", "worker_start_ray_commands:",
     "worker_start", "does not run `ray stop` first"),
    ("start_commands.joining", AWS, "--autoscaling-config=", "--labels=", "ray start --head", "no worker is ever started"),
    ("start_commands.joining", AWS, "ray start --head --port", "ray start --port", "ray start --port", "has no --head"),
    ("start_commands.joining", AWS, "--address=$RAY_HEAD_IP:6379 ", "", "    ray start --object", "they join nothing"),
    ("start_commands.joining", AWS, "--port=6379", "--port=6380", "$RAY_HEAD_IP", "join port 6379, and the head listens on port 6380"),
    ("start_commands.dashboard", LOCAL, "--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "--dashboard-host", "shows the dashboard"),
    ("start_commands.authentication", AWS, "    export RAY_AUTH_MODE=token;\n", "",
     "$RAY_HEAD_IP", "worker_start_ray_commands does not export RAY_AUTH_MODE"),
    ("start_commands.authentication", AWS, "    export RAY_AUTH_MODE=token;\n", "    RAY_AUTH_MODE=token;\n",
     None, "is a shell of its own|does not export"),
    ("start_commands.authentication", GCP, "  - >-\n    export RAY_AUTH_MODE=token;\n", "  - export RAY_AUTH_MODE=token\n  - >-\n",
     "  - export RAY_AUTH_MODE", "in another entry"),
    ("start_commands.authentication", GCP, "MODE=token\n    RAY_health", "MODE=disabled\n    RAY_health",
     "MODE=disabled", "whoever reaches a port of Ray"),
    ("start_commands.authentication", GCP, "MODE=token;", "MODE=disabled;", "MODE=disabled", "differs: token on the head, disabled on workers"),
    ("start_commands.authentication", GCP, "  ~/.ray/auth_token: ~/.ray/auth_token\n", "", "file_mounts:", "do not bring ~/.ray/auth_token"),
    ("start_commands.limits", AWS, "    ulimit -n 65536;\n    ray start --address", "    ray start --address",
     "ray start --address", "limit of open files"),
    ("start_commands.limits", AWS, "RAY_health_check_timeout_ms=2000 ", "", "ray start --head", "RAY_health_check_timeout_ms before"),
    ("start_commands.limits", LOCAL, "--object-store-memory=2000000000", "--object-store-memory=2GB",
     "=2GB", "must be whole bytes, at least 78643200, got '2GB'"),
    ("start_commands.versions", AWS, "ray[default]==2.60.0", "ray[default]==2.59.0",
     "2.59.0", "ray 2.59.0 is installed on the nodes, and 2.60.0 is used"),
    ("start_commands.versions", AWS, "torch==2.13.0", "torch==2.12.0", "2.12.0", "torch 2.12.0 is installed on the nodes, and 2.13.0 is used"),
    ("start_commands.versions", AWS, "--python 3.11", "--python 3.12", "--python 3.12", "Python 3.12 is installed on the nodes"),
    ("start_commands.versions", AWS, "ray[default]==2.60.0", "ray[default]", "setup_commands:", "no setup command pins ray==2.60.0"),
    ("start_commands.versions", AWS, "auth:", "docker: {image: 'rayproject/ray:2.9.3', container_name: a}\nauth:",
     "docker:", "docker.image has Ray 2.9.3"),
    ("start_commands.syntax", AWS, "- chmod 600 ~/.ray/auth_token", "- if true; chmod 600",
     "if true", "bash cannot read this command of setup_commands: "),
    ("source.to_edit", AWS, "us-west-2  # EDIT", "EDIT-region  # EDIT", "EDIT-region", "'EDIT-region' is a placeholder"),
    ("kubernetes.keys", KUBERAY, "minReplicas", "minReplica", "minReplica:", "workerGroupSpecs (did you mean 'minReplicas'"),
    ("kubernetes.keys", KUBERAY, "  entrypoint:", "  entryPoint:", "entryPoint", "did you mean 'entrypoint'"),
    ("kubernetes.required", KUBERAY, "ray.io/v1", "batch/v1", "apiVersion", "must be ray.io/v1, got 'batch/v1'"),
    ("kubernetes.required", KUBERAY, "  name: sweeper-ablations\n", "  labels: {}\n", "metadata:", "metadata.name is missing"),
    ("kubernetes.required", KUBERAY, "  entrypoint: ", "  runtimeEnvYAML: ", "spec:", "spec.entrypoint is missing"),
    ("kubernetes.required", KUBERAY, "  rayClusterSpec:", "  metadata:", "spec:", "spec.rayClusterSpec is missing"),
    ("kubernetes.required", KUBERAY, "image: EDIT-registry/sweeper:2.60.0", "command: []",
     "- name: ray-head", "the container of headGroupSpec has no image"),
    ("kubernetes.required", KUBERAY, "          containers:", "          initContainers:", None, "headGroupSpec.template.spec.containers is missing"),
    ("kubernetes.entrypoint", KUBERAY, "--address auto ", "", "entrypoint", "no --address auto"),
    ("kubernetes.entrypoint", KUBERAY, "s3://EDIT-bucket/sweeps", "results", "entrypoint", "--results names no object store"),
    ("kubernetes.entrypoint", KUBERAY, " --results s3://EDIT-bucket/sweeps", "", "entrypoint", "--results names no object store"),
    ("kubernetes.entrypoint", KUBERAY, "; s=$?;", "' || test $? -eq 1 #'",
     "entrypoint", "pastes the entrypoint into a shell line of its own"),
    ("kubernetes.entrypoint", KUBERAY, "; s=$?; test $s -le 1 || exit $s", "", "backoffLimit", "trials failed by themselves"),
    ("kubernetes.autoscaler", KUBERAY, "autoscalerOptions:", "autoscalerOptions:\n      version: v1",
     "version: v1", "KubeRay refuses autoscalerOptions.version beside RAY_enable"),
    ("kubernetes.autoscaler", KUBERAY, "autoscalerOptions:", "autoscalerOptions:\n      version: v3",
     "version: v3", "must be v1 or v2, got 'v3'"),
    ("kubernetes.autoscaler", KUBERAY, "{name: RAY_enable_autoscaler_v2, value: \"0\"}", "{name: RAY_enable_autoscaler_v2, value: \"1\"}",
     "RAY_enable_autoscaler_v2", "Ray's autoscaler is version 2, unless"),
    ("kubernetes.autoscaler", KUBERAY, "{name: RAY_enable_autoscaler_v2, value: \"0\"}", "{name: OTHER, value: \"0\"}",
     None, "it starts nothing once more is asked for than maxReplicas allow"),
    ("kubernetes.autoscaler", KUBERAY, "          serviceAccountName", "          restartPolicy: Never\n          serviceAccountName",
     "restartPolicy: Never", "leaves the cluster without its autoscaler"),
    ("kubernetes.autoscaler", KUBERAY, "restartPolicy: Never", "restartPolicy: OnFailure",
     "OnFailure", "gpu's restartPolicy must be Never, got 'OnFailure'"),
    ("kubernetes.autoscaler", KUBERAY, "replicas: 0", "idleTimeoutSeconds: 60", "idleTimeoutSeconds: 60", "KubeRay refuses gpu.idleTimeoutSeconds"),
    ("kubernetes.versions", KUBERAY, "rayVersion: 2.60.0", "rayVersion: 2.59.0", "rayVersion", "rayVersion 2.59.0 is not the Ray used here, 2.60.0"),
    ("kubernetes.versions", KUBERAY, "    rayVersion: 2.60.0\n", "", None, "rayVersion is missing"),
    ("kubernetes.versions", KUBERAY, "EDIT-registry/sweeper:2.60.0", "a/sweeper:2.59.0", "a/sweeper", "is of Ray 2.59.0, and rayVersion is 2.60.0"),
    ("kubernetes.versions", KUBERAY, "EDIT-registry/sweeper:2.60.0", "a/sweeper:latest", "a/sweeper", "has no Ray version in its tag"),
    ("kubernetes.versions", KUBERAY, "EDIT-registry/sweeper:2.60.0", "a/ray:2.60.0-py312", "a/ray", "has Python 3.12, and 3.11 is used here"),
    ("kubernetes.authentication", KUBERAY, "mode: token", "mode: disabled", "mode: disabled", "every pod that reaches the head"),
    ("kubernetes.authentication", KUBERAY, "    authOptions:\n      mode: token\n      secretName: sweeper-ray-token\n", "",
     "- name: ray-head", "asks for no token"),
    ("kubernetes.scaling", KUBERAY, "enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "groupName", "no worker is ever started"),
    ("kubernetes.scaling", KUBERAY, "minReplicas: 0", "minReplicas: 11", "minReplicas", "gpu.minReplicas 11 is more than maxReplicas 10"),
    ("kubernetes.scaling", KUBERAY, "replicas: 0", "replicas: 11", "        replicas: 11", "gpu.replicas 11 is more than maxReplicas 10"),
    ("kubernetes.scaling", KUBERAY, "shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "ttlSeconds", "does nothing unless"),
    ("kubernetes.resources", KUBERAY, 'limits: {cpu: "2", memory: 8Gi}', 'limits: {cpu: "2"}',
     'limits: {cpu: "2"}', "no resources.limits.memory"),
    ("kubernetes.resources", KUBERAY, 'limits: {cpu: "4", memory: 14Gi, nvidia.com/gpu: "1"}', 'limits: {cpu: "4", memory: 14Gi}',
     'requests: {cpu: "4"', "limit is missing"),
    ("kubernetes.resources", KUBERAY, "{key: nvidia.com/gpu", "{key: other", None, "tolerates no taint nvidia.com/gpu"),
    ("kubernetes.resources", KUBERAY, "name: RAY_health_check_period_ms", "name: OTHER",
     "- name: ray-head", "does not set RAY_health_check_period_ms"),
    ("slurm.known_options", SLURM, "--gpus-per-node", "--gpu-per-node", "--gpu-per-node", "no option --gpu-per-node (did you mean 'gpus-per-node'"),
    ("slurm.known_options", SLURM, "#SBATCH --exclusive", "# SBATCH --exclusive", "# SBATCH", "without a space"),
    ("slurm.known_options", SLURM, "set -euo pipefail\n", "set -euo pipefail\n#SBATCH --qos=a\n", "--qos", "no #SBATCH after the first command"),
    ("slurm.one_ray_per_node", SLURM, "#SBATCH --nodes=4\n", "", None, "--nodes is missing"),
    ("slurm.one_ray_per_node", SLURM, "per-node=1\n#SBATCH --excl", "per-node=4\n#SBATCH --excl", "--ntasks", "must be 1, got 4"),
    ("slurm.one_ray_per_node", SLURM, "#SBATCH --time=12:00:00\n", "", None, "--time is missing"),
    ("slurm.one_ray_per_node", SLURM, "#SBATCH --requeue\n", "", None, "--requeue is missing"),
    ("slurm.one_ray_per_node", SLURM, "#SBATCH --exclusive\n", "", None, "--exclusive is missing"),
    ("slurm.start", SLURM, "ray symmetric-run", "ray start", "ray start --address", "no `srun ray symmetric-run`"),
    ("slurm.start", SLURM, "  -- python", "  python", "srun", "needs ` -- `"),
    ("slurm.start", SLURM, "srun --kill-on-bad-exit=1 ray", "ray", "ray symmetric-run --address", "runs on the first node only"),
    ("slurm.start", SLURM, "--min-nodes \"$SLURM_JOB_NUM_NODES\"", "", "srun --kill", "has no --min-nodes"),
    ("slurm.start", SLURM, "--num-cpus \"$", "--port 6379 --num-cpus \"$", "srun --kill", "refuses --port"),
    ("slurm.start", SLURM, "\"$@\" --address auto", "\"$@\"", "srun --kill", "a Ray of its own"),
    ("slurm.start", SLURM, "--dashboard-host 127.0.0.1", "--dashboard-host 0.0.0.0", "srun --kill", "shows the dashboard"),
    ("slurm.environment", SLURM, "export RAY_AUTH_MODE=token\n", "", "srun --kill", "RAY_AUTH_MODE=token is not exported"),
    ("slurm.environment", SLURM, "export RAY_AUTH_MODE=token\n", "RAY_AUTH_MODE=token\n",
     "RAY_AUTH_MODE=token", "got an assignment without `export`, which stays within the script"),
    ("slurm.environment", SLURM, "export RAY_AUTH_MODE=token\n", "export RAY_AUTH_MODE=disabled\n",
     "srun --kill", "is not exported before Ray starts, got disabled"),
    ("slurm.environment", SLURM, "srun --kill", "srun --export=HOME,PATH --kill", "srun --export", "is not exported before Ray starts, got nothing"),
    ("slurm.environment", SLURM, "export RAY_health_check_initial", "RAY_health_check_initial",
     "srun --kill", "RAY_health_check_initial_delay_ms is not exported"),
    ("slurm.environment", SLURM, " RAY_health_check_failure_threshold=3", "", "srun --kill", "RAY_health_check_failure_threshold is not exported"),
    ("slurm.granted", SLURM, "#SBATCH --mem=0\n", "", None, "--mem is missing"),
    ("slurm.granted", SLURM, "export SRUN_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK", "srun --kill", "srun does not take over --cpus-per-task"),
    ("slurm.time_limit", SLURM, "#SBATCH --signal=B:USR1@180\n", "", "--requeue", "the time limit ends the sweep"),
    ("slurm.time_limit", SLURM, "--signal=B:USR1@180", "--signal=USR1@180", "--signal", "reaches Ray's processes"),
    ("slurm.time_limit", SLURM, "--signal=B:USR1@180", "--signal=B:USR2@180", "--signal", "it has no trap for USR2"),
    ("slurm.time_limit", SLURM, "--results \"$results\" &", "--results \"$results\"", "srun --kill", "runs only once srun has ended"),
    ("slurm.environment", SLURM, "ulimit -n 65536 2> /dev/null || ulimit -n \"$(ulimit -Hn)\"", "true", "srun --kill", "limit of open files"),
    ("slurm.syntax", SLURM, "#!/bin/bash\n", "", None, "the first line must be #!/bin/bash"),
    ("slurm.syntax", SLURM, "set -euo pipefail", "if true; then (", None, "bash cannot read this script"),
    ("slurm.to_edit", SLURM, "port=6379", "port=EDIT", "port=EDIT", "EDIT is a placeholder"),
]  # fmt: skip
RULES = {f"{module.__name__.rpartition('.')[2]}.{rule.__name__}" for module in (launcher, start_commands, kubernetes, slurm) for rule in module.RULES}


@pytest.fixture(autouse=True)
def machine(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's machine: the token, a key, a folder with a repository in it; commands run in our own repository."""
    home = tmp_path_factory.mktemp("home")
    for name in (".ray/auth_token", ".ray/readable", ".ssh/id_ed25519", "heavy/.git/config"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        (home / name).write_text("x")
        (home / name).chmod(0o644 if "readable" in name else 0o600)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(ROOT)
    yield home


def edited(tmp_path: Path, file: str, old: str, new: str) -> Path:
    text = (ROOT / file).read_text()
    assert old in text, f"{file} no longer has {old!r}"
    path = tmp_path / Path(file).name
    path.write_text(text.replace(old, new, 1))
    return path


@cache
def unedited(file: str) -> list[Finding]:
    return check(ROOT / file)


def found(path: Path, line_has: str | None, sentence: str) -> list[Finding]:
    lines = path.read_text().splitlines()
    told = [finding for finding in check(path) if any(part in finding.message for part in sentence.split("|"))]
    return [finding for finding in told if line_has is None or line_has in lines[finding.line - 1]]


@pytest.mark.parametrize("file", SHIPPED)
def test_every_shipped_file_passes(file: str) -> None:
    assert [finding.shown(Path(file)) for finding in check(ROOT / file) if finding.level == "error"] == []


@pytest.mark.parametrize("file", SHIPPED)
def test_a_shipped_file_has_only_placeholders_to_fill_in(file: str) -> None:
    assert {finding.level for finding in check(ROOT / file)} <= {"to fill in"}


@pytest.mark.parametrize(("rule", "file", "old", "new", "line_has", "sentence"), MISTAKES, ids=[f"{row[0]}:{row[5][:40]}" for row in MISTAKES])
def test_a_planted_mistake_is_named_at_its_line_by_its_rule_alone(
    rule: str, file: str, old: str, new: str, line_has: str | None, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.cluster.validation.of_ray", lambda root: [])  # our rules alone, and in a tenth of the time
    assert not [finding for finding in unedited(file) if any(part in finding.message for part in sentence.split("|"))]
    path = edited(tmp_path, file, old, new)
    assert found(path, line_has, sentence), [finding.shown(path) for finding in check(path)]

    module, name = rule.split(".")
    if module == "source":
        monkeypatch.setattr("sweeper.cluster.files.to_edit", lambda source: iter(()))
    else:
        rules = {"launcher": launcher, "start_commands": start_commands, "kubernetes": kubernetes, "slurm": slurm}[module]
        monkeypatch.setattr(rules, "RULES", tuple(one for one in rules.RULES if one.__name__ != name))
    assert found(path, line_has, sentence) == []


def test_a_file_that_gives_every_machine_a_group_needs_no_name_of_one(tmp_path: Path) -> None:
    path = edited(tmp_path, AWS, GROUP, "")
    profile = "IamInstanceProfile: {Name: sweeper-"
    path.write_text(path.read_text().replace(profile + "head", "SecurityGroupIds: [sg-1]\n      " + profile + "head"))
    assert found(path, "provider:", "ssh open to the world")  # the workers have none
    path.write_text(path.read_text().replace(profile + "worker", "SecurityGroupIds: [sg-1]\n      " + profile + "worker"))
    assert found(path, None, "ssh open to the world") == []


def test_every_rule_has_a_mistake() -> None:
    assert {row[0] for row in MISTAKES} - {"source.to_edit"} == RULES


@pytest.mark.parametrize(
    ("old", "new", "line_has", "sentence"),
    [
        ("upscaling_speed: 10", "upscaling_sped: 10", "upscaling_sped", "'upscaling_sped' was unexpected"),
        ("max_workers: 10\nup", "max_workers: ten\nup", "max_workers: ten", "'ten' is not of type 'integer'"),
        ("rsync_exclude: [", "rsync_exclude: a #[", "rsync_exclude", "'a' is not of type 'array'"),
        (
            "  gpu:\n    min_workers: 0\n",
            "  b: {resources: {}, node_config: {}, min_workers: 9}\n  gpu:\n    min_workers: 9\n",
            "max_workers: 10",
            "smaller than",
        ),
        ("head_node_type: head\n", "", None, "head_node_type"),
    ],
)
def test_what_ray_refuses_is_said_at_its_line(old: str, new: str, line_has: str | None, sentence: str, tmp_path: Path) -> None:
    assert found(edited(tmp_path, AWS, old, new), line_has, sentence)


def test_ray_is_asked_for_a_list_of_hosts_too(tmp_path: Path) -> None:
    path = edited(tmp_path, LOCAL, "cluster_name: sweeper-on-premise", "cluster_name: a\nhead_node: {a: b}")
    assert found(path, "head_node:", "not supported for on-premise clusters")


def test_a_key_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = edited(tmp_path, AWS, "max_workers: 10\nup", "max_workers: 5\nmax_workers: 10\nup")
    (finding,) = found(path, "max_workers: 10", "stands here a second time")
    assert f"after line {finding.line - 1}" in finding.message


def test_yaml_that_cannot_be_read_is_a_finding_at_its_line(tmp_path: Path) -> None:
    path = edited(tmp_path, AWS, "auth:\n", "auth: [\n")
    (finding,) = check(path)
    assert finding.message.startswith("no YAML: ") and finding.line > 20


def test_an_alias_within_what_it_names_is_a_finding(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("provider:\n  a: &a [*a]\n")
    assert [finding.shown(Path("a.yaml")) for finding in check(tmp_path / "a.yaml")] == ["a.yaml:2: no YAML: an alias stands within what it names"]


@pytest.mark.parametrize("file", [AWS, KUBERAY])
@pytest.mark.parametrize("odd", [3, None, [{"b": [1]}], {"a": 3}])
def test_a_value_of_another_kind_never_ends_the_check(file: str, odd: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sweeper.cluster.validation.of_ray", lambda root: [])

    def variants(value: object) -> Iterator[object]:
        """Yield value with each of its parts replaced by the odd one."""
        if isinstance(value, dict):
            yield from ({**value, key: new} for key, part in value.items() for new in [odd, *variants(part)])
        elif isinstance(value, list):
            yield from ([*value[:place], new, *value[place + 1 :]] for place, part in enumerate(value) for new in [odd, *variants(part)])

    (document,), _ = read_yaml((ROOT / file).read_text())
    path = tmp_path / "odd.yaml"
    odd_ones = [variant for variant in variants(document.plain()) if isinstance(variant, dict) and variant.get("kind", "RayJob") == "RayJob"]
    for variant in odd_ones:
        path.write_text(json.dumps(variant))  # JSON is YAML, and quick to write
        check(path)
    assert len(odd_ones) > 40


def test_values_keep_their_lines_through_anchors_and_folded_text() -> None:
    (root,), _ = read_yaml("a: &x\n  b: 1\nc: *x\nd: >-\n  one\n  two\n")
    assert (root.at("a", "b").line, root.at("c", "b").line, root["d"].line, root["d"].text()) == (2, 2, 4, "one two")
    assert root.at("d", "absent", "deeper").is_missing and root.at("d", "absent", "deeper").line == 4
    assert root.plain() == {"a": {"b": 1}, "c": {"b": 1}, "d": "one two"}


# the command


def doctor(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(app, ["doctor", *map(str, words)])
    return result.exit_code, result.stdout, result.stderr


def test_doctor_prints_as_compilers_do_and_fails_on_errors(tmp_path: Path) -> None:
    path = edited(tmp_path, AWS, "  region: us-west-2 ", "  # ")
    status, shown, _ = doctor("--cluster", path)
    line = path.read_text().splitlines().index("provider:") + 1
    assert status == 1
    assert f"{path}:{line}: provider.region is missing; AWS starts nothing without one, such as us-west-2\n" in shown


def test_doctor_passes_a_template_and_says_last_how_many_lines_are_to_fill_in() -> None:
    status, shown, said = doctor("--cluster", AWS)
    assert status == 0 and re.fullmatch(r"cluster.yaml:\d+: to fill in: 'ami-EDIT' is a placeholder\n", shown)
    assert said.endswith("errors 0, advice 0\nNOT READY: 1 line to fill in before the cluster can start\n")
    assert "NOT READY: 2 lines to fill in" in doctor("--cluster", LOCAL)[2]  # two workers stand on one line


def test_doctor_passes_with_advice_alone_and_calls_a_filled_in_file_no_template(tmp_path: Path) -> None:
    path = edited(tmp_path, AWS, "ami-EDIT", "ami-0123456789abcdef0")
    assert doctor("--cluster", path) == (0, "", f"{path}: errors 0, advice 0\n")
    path.write_text(path.read_text().replace("cache_stopped_nodes: false", "cache_stopped_nodes: true"))
    status, _, said = doctor("--cluster", path)
    assert (status, said) == (0, f"{path}: errors 0, advice 1\n")


@pytest.mark.parametrize(("old", "named"), [("\nprovider:\n", "provider"), ("  type: aws\n", "provider.type")])
def test_doctor_names_a_missing_provider_rather_than_rays_key_error(old: str, named: str, tmp_path: Path) -> None:
    status, shown, _ = doctor("--cluster", edited(tmp_path, AWS, old, "\nmetadata:\n" if named == "provider" else ""))
    assert status == 1 and f": {named} is missing; " in shown and "KeyError" not in shown


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("absent.yaml", None, "No such file"),
        ("list.yaml", "- 1\n", "must be a file of `ray up`, a RayJob or a batch script of Slurm"),
        ("empty.yaml", "", "must be a file of `ray up`, a RayJob or a batch script of Slurm"),
        ("pod.yaml", "apiVersion: v1\nkind: Pod\n", "must have a RayJob, got Pod"),
    ],
)
def test_doctor_says_what_it_cannot_check(name: str, text: str | None, sentence: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    status, shown, said = doctor("--cluster", tmp_path / name)
    assert (status, shown) == (2, "") and sentence in said


def test_doctor_imports_no_torch_and_ray_only_for_its_own_files() -> None:
    script = f"""
import sys
from pathlib import Path
from sweeper.cli import app
from sweeper.cluster.files import check
for file in {[KUBERAY, SLURM]!r}:
    check(Path(file))
assert not {{"torch", "ray", "boto3"}} & set(sys.modules)
check(Path({AWS!r}))
assert not {{"torch", "boto3"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT, timeout=60)


# what the files do


@pytest.mark.parametrize("file", LAUNCHED)
def test_setup_commands_give_every_login_shell_the_environment(file: str, machine: Path) -> None:
    (root,), _ = read_yaml((ROOT / file).read_text())
    commands = [entry.text() for entry in root["setup_commands"].entries() if ".sweeper-env" in entry.text() or ".bash_profile" in entry.text()]
    assert len(commands) == 3
    environment = {"HOME": str(machine), "PATH": os.environ["PATH"]}
    (machine / ".profile").write_text("export FROM_PROFILE=kept\n")
    for command in commands * 2:  # a second `ray up` runs them again
        subprocess.run(["bash", "--login", "-c", "-i", command], env=environment, check=True, capture_output=True, timeout=10)
    shown = subprocess.run(
        ["bash", "--login", "-c", "echo $PATH $RAY_AUTH_MODE $FROM_PROFILE"], env=environment, capture_output=True, text=True, timeout=10
    )
    assert shown.stdout.startswith(f"{machine}/sweeper-venv/bin:")
    assert shown.stdout.endswith(" token kept\n")
    assert (machine / ".bash_profile").read_text().count("sweeper-env") == 1


def test_the_head_of_the_list_of_hosts_exports_what_ray_start_reads() -> None:
    (root,), _ = read_yaml((ROOT / LOCAL).read_text())
    entry = root["head_start_ray_commands"].entries()[1].text()
    shown = subprocess.run(["bash", "-c", entry.replace("ray start", "env; echo")], capture_output=True, text=True, check=True, timeout=10).stdout
    assert {"RAY_AUTH_MODE=token", "RAY_health_check_timeout_ms=2000", "RAY_health_check_failure_threshold=3"} <= set(shown.splitlines())
    assert "--dashboard-host=127.0.0.1" in shown.splitlines()[-1]


def test_a_host_can_give_only_part_of_itself(machine: Path) -> None:
    (machine / ".sweeper-ray-options").write_text("--num-cpus=1 --object-store-memory=100000000\n")
    (root,), _ = read_yaml((ROOT / LOCAL).read_text())
    entry = root["worker_start_ray_commands"].entries()[1].text()
    shown = subprocess.run(["bash", "-c", entry.replace("ray start", "echo")], capture_output=True, text=True, check=True, timeout=10).stdout
    assert shown.endswith("--num-cpus=1 --object-store-memory=100000000\n")


def test_every_mounted_path_of_the_repository_is_what_the_package_is_made_of() -> None:
    for file in LAUNCHED:
        (root,), _ = read_yaml((ROOT / file).read_text())
        mounted = {local.text() for _, local in root["file_mounts"].items()} - {"~/.ray/auth_token"}
        assert mounted == {"sweeper", "models", "attacks", "search_spaces", "pyproject.toml", "constraints.txt", "README.md"}


def test_the_image_has_the_pinned_versions_and_the_package() -> None:
    text = (ROOT / "deploy" / "Dockerfile").read_text()
    assert "FROM rayproject/ray:2.60.0-py311-gpu" in text and "'torch==2.13.0'" in text
    copied = {word for line in text.splitlines() if line.startswith("COPY") for word in line.split()[2:-1]}
    assert copied == {"sweeper", "models", "attacks", "search_spaces", "pyproject.toml", "constraints.txt", "README.md"}


@pytest.mark.parametrize("file", SHIPPED)
def test_every_shipped_command_asks_for_the_gpu_that_the_head_has_not(file: str) -> None:
    text = re.sub(r"\\\n#? *", "", (ROOT / file).read_text())
    commands = [line for line in text.splitlines() if "--scale medium" in line]
    assert commands and all("--gpus-per-trial 1" in command for command in commands)


@pytest.mark.parametrize("file", [AWS, LOCAL, SLURM, "deploy/Dockerfile"])
def test_every_machine_gets_boto3_within_the_constraints(file: str) -> None:
    text = re.sub(r"\\?\n *", " ", (ROOT / file).read_text())
    assert re.search(r"""pip install [^;]*-c \S*constraints\.txt [^;]*-e ["']\S*\[s3\]["']""", text)
    assert re.search(r"(?m)^boto3==", (ROOT / "constraints.txt").read_text())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("export RAY_AUTH_MODE=token\n", "RAY_AUTH_MODE=token\nexport RAY_AUTH_MODE\n"),
        ("export RAY_AUTH_MODE=token\n", "export PATH RAY_AUTH_MODE=token  # not 'disabled'\n"),
        ("export RAY_AUTH_MODE=token\n", "export RAY_AUTH_MODE=disabled\nRAY_AUTH_MODE=token\n"),
        ("export RAY_AUTH_MODE=token\n", "if true; then export RAY_AUTH_MODE=token; fi\n"),
        ("srun --kill", "RAY_AUTH_MODE=token srun --kill"),
        ("srun --kill", "srun --export=ALL,RAY_AUTH_MODE=token --kill"),
    ],
)
def test_a_token_reaches_ray_on_slurm_however_it_is_exported(old: str, new: str, tmp_path: Path) -> None:
    path = edited(tmp_path, SLURM, old, new)
    if old.startswith("srun"):
        path.write_text(path.read_text().replace("\nexport RAY_AUTH_MODE=token\n", "\n"))
    assert [finding.shown(path) for finding in check(path)] == []


@pytest.mark.parametrize("option", ["-c 8", "-c8", "--cpus-per-task=8", '--cpus-per-task "$SLURM_CPUS_PER_TASK"'])
def test_srun_may_be_told_its_cpus_itself(option: str, tmp_path: Path) -> None:
    path = edited(tmp_path, SLURM, "export SRUN_CPUS_PER_TASK", "SRUN_CPUS_PER_TASK")
    path.write_text(path.read_text().replace("srun --kill", f"srun {option} --kill"))
    assert [finding.shown(path) for finding in check(path)] == []


def test_a_spot_machine_of_google_without_its_default_is_only_advised_to_say_it(tmp_path: Path) -> None:
    path = edited(tmp_path, GCP, "        onHostMaintenance: TERMINATE\n", "")
    assert [finding.level for finding in found(path, "scheduling:", "has no onHostMaintenance")] == ["advice"]


@pytest.mark.parametrize(("status", "ends_with"), [(0, 0), (1, 0), (2, 2), (130, 130)])
def test_failed_trials_alone_start_no_other_cluster_on_kubernetes(status: int, ends_with: int, tmp_path: Path) -> None:
    (root,), _ = read_yaml((ROOT / KUBERAY).read_text())
    (tmp_path / "python").write_text(f'#!/bin/bash\nprintf "%s\\n" "$@" > {tmp_path}/words\nexit {status}\n')
    submits = f"#!{sys.executable}\nimport shlex, sys\nprint(shlex.join(sys.argv[sys.argv.index('--') + 1 :]))\n"  # as `ray job submit` does
    (tmp_path / "ray").write_text(submits)
    for name in ("python", "ray"):
        (tmp_path / name).chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    line = f"if ! false ; then ray job submit --address a --no-wait -- {root.at('spec', 'entrypoint').text()} ; fi"  # as KubeRay pastes it
    submitted = subprocess.run(["bash", "-ce", line], env=environment, capture_output=True, text=True, check=True, timeout=10).stdout
    done = subprocess.run(submitted, shell=True, env=environment, capture_output=True, timeout=10)  # as Ray runs a job
    assert (done.returncode, done.stderr) == (ends_with, b"")
    assert (tmp_path / "words").read_text().splitlines()[-1] == "s3://EDIT-bucket/sweeps"


@pytest.mark.parametrize("script", ["aws-account.sh", "slurm.sbatch"])
def test_bash_can_read_every_shipped_script(script: str) -> None:
    subprocess.run(["bash", "-n", str(ROOT / "deploy" / script)], check=True, timeout=10)


def test_the_google_file_makes_the_account_that_its_workers_have_and_names_the_rights_of_rays_own() -> None:
    text = (ROOT / GCP).read_text()
    header = " ".join(line.strip("# \\") for line in text.partition("cluster_name:")[0].splitlines())
    (root,), _ = read_yaml(text)
    account = root.at("available_node_types", "gpu", "node_config", "serviceAccounts").entries()[0]["email"].text()
    assert f"gcloud iam service-accounts create {account.partition('@')[0]} " in header and f"--member=serviceAccount:{account} " in header
    ray = find_spec("ray")
    assert ray and ray.origin
    source = Path(ray.origin).with_name("autoscaler").joinpath("_private", "gcp", "config.py").read_text()  # read: Google's library is not here
    roles = re.findall(r'"roles/(.+)"', source.partition("\nDEFAULT_SERVICE_ACCOUNT_ROLES = [")[2].partition("]")[0])
    assert len(roles) == 4 and f"the roles {', '.join(roles[:-1])} and {roles[-1]};" in header

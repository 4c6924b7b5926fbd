"""The script that makes what cluster.yaml needs of an AWS account: its refusals and calls, and what Ray then finds on a simulated EC2."""

import json
import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from sweeper.cluster.known import AWS_NODE

ROOT = Path(__file__).parents[1]
NAME = "ray-autoscaler-sweeper"
CIDR = "203.0.113.7/32"
NO_RANGE = ("0.0.0.0/0", "128.0.0.0/1", "203.0.113.7", "203.0.113.7/33", "203.0.113.256/32", "203.0.113/24", "::/0", "203.0.113.7/32\n", "")
EC2 = {  # what the stand-in says to a call that has these words, of an account with one network and nothing else
    "iam get-role": "arn:aws:iam::1:role/sweeper-worker",
    "describe-subnets": "vpc-1",
    "create-security-group": "sg-1",
}
MADE = {**EC2, "describe-security-groups": "sg-1", "&& (IpProtocol == '-1'": "sgr-1"}  # the group, and the rule for within


def called(folder: Path, *words: str) -> tuple[int, str]:
    """Call the script with `aws` from folder; return its exit status and what it said on stderr."""
    environment = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "deploy/aws-account.sh", *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stderr


def calls(folder: Path, answers: Mapping[str, str], *words: str) -> list[list[str]]:
    """Return the words of each call of `aws` that the script makes, given answers."""
    cases = "".join(f"  *{json.dumps(key)}*) printf '{answer}\\n' ;;\n" for key, answer in answers.items())
    (folder / "aws").write_text(f'#!/bin/bash\nprintf "%s\\0" "$@" $\'\\1\' >> "${{0%/*}}/calls"\ncase "$*" in\n{cases}esac\n')
    (folder / "aws").chmod(0o755)
    assert called(folder, *words) == (0, "")
    return [call.split("\0")[:-1] for call in (folder / "calls").read_text().split("\1\0") if call]


def changes(folder: Path, answers: Mapping[str, str], *words: str) -> list[str]:
    """Return the calls that change EC2, all of which name the region, without their description and region."""
    ec2 = [call for call in calls(folder, answers, "our-bucket", "us-west-2", *words) if call[0] == "ec2"]
    assert all(call[-2:] == ["--region", "us-west-2"] for call in ec2)
    return [" ".join(call[1:-2]).partition(" --query")[0] for call in ec2 if not call[1].startswith("describe-")]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "usage: bash deploy/aws-account.sh BUCKET REGION CIDR, such as: our-bucket us-west-2 203.0.113.7/32"),
        (["our-bucket"], "usage: bash deploy/aws-account.sh BUCKET REGION CIDR"),
        (["our-bucket", "us-west-2"], "usage: bash deploy/aws-account.sh BUCKET REGION CIDR"),
        (["our-bucket", "us-west-2", CIDR, CIDR], "usage: bash deploy/aws-account.sh BUCKET REGION CIDR"),
        (["s3://our-bucket", "us-west-2", CIDR], "BUCKET must be the name of a bucket, without s3://, got 's3://our-bucket'"),
        (["our-bucket", "us-west-2a", CIDR], "REGION must be a region of AWS, such as us-west-2, got 'us-west-2a'"),
        *((["our-bucket", "us-west-2", cidr], f"may log in, from /8 to /32, such as 203.0.113.7/32, got '{cidr}'") for cidr in NO_RANGE),
    ],
)  # fmt: skip
def test_the_script_refuses_in_one_sentence_and_calls_nothing(words: list[str], sentence: str, tmp_path: Path) -> None:
    (tmp_path / "aws").write_text('#!/bin/bash\ntouch "${0%/*}/called"\n')
    (tmp_path / "aws").chmod(0o755)
    status, said = called(tmp_path, *words)
    assert status == 2 and sentence in said and said.count("\n") == 1 + sentence.count("\n")
    assert not (tmp_path / "called").exists()


def test_the_group_is_made_with_ssh_from_the_range_and_everything_from_within(tmp_path: Path) -> None:
    assert changes(tmp_path, EC2, CIDR) == [
        f"create-security-group --group-name {NAME} --vpc-id vpc-1",
        "authorize-security-group-ingress --group-id sg-1 --protocol all --source-group sg-1",
        f"authorize-security-group-ingress --group-id sg-1 --protocol tcp --port 22 --cidr {CIDR}",
    ]


def test_every_network_in_which_ray_may_put_machines_has_the_group(tmp_path: Path) -> None:
    made = changes(tmp_path, {**EC2, "describe-subnets": r"vpc-2\tvpc-1\tvpc-2"}, CIDR)
    assert [call for call in made if "create" in call] == [f"create-security-group --group-name {NAME} --vpc-id {vpc}" for vpc in ("vpc-1", "vpc-2")]


@pytest.mark.parametrize(
    ("found", "changed"),
    [
        ({"&& (IpProtocol == 'tcp'": "sgr-2"}, []),
        ({}, [f"authorize-security-group-ingress --group-id sg-1 --protocol tcp --port 22 --cidr {CIDR}"]),
        (
            {"&& (!(": r"sgr-3\tsgr-4"},
            [
                f"authorize-security-group-ingress --group-id sg-1 --protocol tcp --port 22 --cidr {CIDR}",
                "revoke-security-group-ingress --group-id sg-1 --security-group-rule-ids sgr-3 sgr-4",  # last: Ray fills a group without rules
            ],
        ),
    ],
)
def test_a_second_call_makes_what_is_missing_and_revokes_what_is_too_much(found: dict[str, str], changed: list[str], tmp_path: Path) -> None:
    assert changes(tmp_path, {**found, **MADE}, CIDR) == changed


def test_a_range_is_asked_for_as_aws_keeps_it(tmp_path: Path) -> None:
    (asked,) = changes(tmp_path, MADE, "203.0.113.7/20")
    assert asked.endswith("--cidr 203.0.112.0/20")
    assert "CidrIpv4 == '203.0.112.0/20'" in (tmp_path / "calls").read_text()  # else a second call would take it for another range


def test_a_region_without_public_subnets_is_named_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "aws").write_text("#!/bin/bash\n")
    (tmp_path / "aws").chmod(0o755)
    status, said = called(tmp_path, "our-bucket", "us-west-2", CIDR)
    assert status == 2 and said.startswith("us-west-2 has no subnet ") and "`aws ec2 create-default-vpc --region us-west-2`" in said


def test_the_roles_give_workers_the_bucket_and_nothing_else(tmp_path: Path) -> None:
    made = calls(tmp_path, EC2, "our-bucket", "us-west-2", CIDR)
    policies: dict[str, list[dict[str, object]]] = {"sweeper-worker": [], "sweeper-head": []}
    for call in made:
        if call[1] == "put-role-policy":
            options = dict(zip(call[2::2], call[3::2], strict=True))
            policies[options["--role-name"]] += json.loads(options["--policy-document"])["Statement"]
    assert {str(statement["Resource"]) for statement in policies["sweeper-worker"]} == {"arn:aws:s3:::our-bucket", "arn:aws:s3:::our-bucket/*"}
    passed = [statement["Resource"] for statement in policies["sweeper-head"] if statement["Action"] == ["iam:PassRole", "iam:GetInstanceProfile"]]
    assert passed == [["arn:aws:iam::1:role/sweeper-worker", "arn:aws:iam::*:instance-profile/sweeper-worker"]]
    managed = [call for call in made if call[1] == "attach-role-policy"]
    assert [call[3] for call in managed] == ["sweeper-head"]


def test_the_roles_can_be_made_again_after_a_call_that_stopped_half_way(tmp_path: Path) -> None:
    (tmp_path / "aws").write_text("""#!/bin/bash
cd "${0%/*}"  # as IAM: one file for what was made, which cannot be made twice
made() { [[ -e $1 ]] && exit 254; [[ -e stop ]] && [[ $1 == has-* ]] && exit 1; touch "$1"; exit 0; }
case $2 in
  create-role) made "role-$4" ;;
  create-instance-profile) made "profile-$4" ;;
  add-role-to-instance-profile) made "has-$4" ;;
  get-role) [[ -e role-$4 ]] || exit 254; echo "arn:aws:iam::1:role/$4" ;;
  get-instance-profile) [[ -e profile-$4 ]] || exit 254; [[ -e has-$4 ]] && echo "$4" || echo ;;
  describe-subnets) echo vpc-1 ;;
  create-security-group) echo sg-1 ;;
esac
""")
    (tmp_path / "aws").chmod(0o755)
    (tmp_path / "stop").touch()
    statuses = []
    for _ in range(3):
        statuses.append(called(tmp_path, "our-bucket", "us-west-2", CIDR)[0])
        (tmp_path / "stop").unlink(missing_ok=True)
    assert statuses == [1, 0, 0]
    kinds = {path.name for path in tmp_path.iterdir()} - {"aws"}
    assert kinds == {f"{kind}-sweeper-{who}" for kind in ("role", "profile", "has") for who in ("head", "worker")}


# on a simulated EC2


def answer(words: list[str]) -> tuple[int, str]:
    """Do with boto3 what `aws` does for words; return its exit status and text. What the API's model does not know raises."""
    import boto3
    import jmespath
    from botocore import xform_name
    from botocore.exceptions import ClientError

    service, operation, *rest = words
    options: dict[str, list[str]] = {}
    for word in rest:
        if word.startswith("--"):
            options[word[2:]] = []
        else:
            options[next(reversed(options))].append(word)
    client = boto3.client(service, region_name=options.pop("region", ["us-west-2"])[0])
    query = options.pop("query", ["@"])[0]
    options.pop("output", None)
    arguments: dict[str, Any] = {}
    if "protocol" in options:  # the command line's own short forms of a rule
        rule: dict[str, Any] = {"IpProtocol": options.pop("protocol")[0].replace("all", "-1")}
        rule |= {key: int(port) for port in options.pop("port", []) for key in ("FromPort", "ToPort")}
        rule |= {"IpRanges": [{"CidrIp": cidr} for cidr in options.pop("cidr", [])]}
        rule |= {"UserIdGroupPairs": [{"GroupId": group} for group in options.pop("source-group", [])]}
        arguments["IpPermissions"] = [{key: value for key, value in rule.items() if value}]
    method = operation.replace("-", "_")
    shape = client.meta.service_model.operation_model(client.meta.method_to_api_mapping[method]).input_shape
    members = {xform_name(member, "-"): member for member in shape.members}
    for option, values in options.items():
        member = members[option]
        if option == "filters":
            pairs = [dict(part.split("=") for part in value.split(",")) for value in values]
            arguments[member] = [{"Name": pair["Name"], "Values": [pair["Values"]]} for pair in pairs]
        else:
            arguments[member] = values if shape.members[member].type_name == "list" else values[0]
    try:
        value = jmespath.search(query, getattr(client, method)(**arguments))
    except ClientError as error:
        return 254, f"{error}\n"
    return 0, ("\t".join(map(str, value)) if isinstance(value, list) else str(value)) + "\n"


@contextmanager
def simulated_aws(folder: Path) -> Iterator[None]:
    """Have `aws` in folder pass its words to this process, in which boto3 talks to a simulated AWS."""
    (folder / "aws").write_text('#!/bin/bash\nprintf "%s\\0" "$@" > "$0.calls"\n{ read -r status; cat; } < "$0.answers"\nexit $status\n')
    (folder / "aws").chmod(0o755)
    ways = folder / "aws.calls", folder / "aws.answers"
    for way in ways:
        os.mkfifo(way)

    def answers() -> None:
        while words := ways[0].read_text().split("\0")[:-1]:
            try:
                status, text = answer(words)
            except Exception as error:  # said by the script, which ends then
                status, text = 255, f"{type(error).__name__}: {error}\n"
            ways[1].write_text(f"{status}\n{text}")

    thread = Thread(target=answers, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ways[0].write_text("")
        thread.join(10)


def opened(group: dict[str, Any]) -> set[tuple[str, int | None, str]]:
    """Return protocol, port and source of every inbound rule of a group."""
    found = set()
    for rule in group["IpPermissions"]:
        sources = [pair["GroupId"] for pair in rule["UserIdGroupPairs"]]
        sources += [part["CidrIp"] for part in rule["IpRanges"]] + [part["CidrIpv6"] for part in rule["Ipv6Ranges"]]
        assert rule.get("FromPort") == rule.get("ToPort") and not rule["PrefixListIds"]
        found |= {(rule["IpProtocol"], rule.get("FromPort"), source) for source in sources}
    return found


@pytest.mark.slow
def test_ray_starts_the_machines_of_cluster_yaml_behind_the_firewall_of_the_script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    import yaml
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.util import prepare_config

    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes a key to ~/.ssh
    monkeypatch.chdir(ROOT)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "simulated")
    with moto.mock_aws(config={"iam": {"load_aws_managed_policies": True}}), simulated_aws(tmp_path):
        ec2 = boto3.client("ec2", region_name="us-west-2")

        def groups() -> list[dict[str, Any]]:
            return [one for one in ec2.describe_security_groups()["SecurityGroups"] if one["GroupName"] == NAME]

        assert called(tmp_path, "our-bucket", "us-west-2", CIDR) == (0, "")
        (group,) = groups()
        image = ec2.describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        config = prepare_config(
            yaml.safe_load((ROOT / "cluster.yaml").read_text().replace("ami-EDIT", image).replace("cluster_name: sweeper", "cluster_name: ours"))
        )
        config = AWSNodeProvider.bootstrap_config(AWSNodeProvider.fillout_available_node_types_resources(config))
        provider, started = AWSNodeProvider(config["provider"], config["cluster_name"]), {}
        for kind in ("head", "gpu"):
            for node in provider.create_node(config["available_node_types"][kind]["node_config"], {}, 1).values():
                started[kind] = ec2.describe_instances(InstanceIds=[node.id])["Reservations"][0]["Instances"][0]
        assert groups() == [group]  # neither changed nor one more

        for rule in ({"IpRanges": [{"CidrIp": "0.0.0.0/0"}]}, {"Ipv6Ranges": [{"CidrIpv6": "::/0"}]}):  # as Ray, had it come first
            ec2.authorize_security_group_ingress(
                GroupId=group["GroupId"], IpPermissions=[{"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **rule}]
            )
        other = ec2.create_subnet(VpcId=ec2.create_vpc(CidrBlock="10.0.0.0/16")["Vpc"]["VpcId"], CidrBlock="10.0.0.0/24")["Subnet"]
        ec2.modify_subnet_attribute(SubnetId=other["SubnetId"], MapPublicIpOnLaunch={"Value": True})
        assert called(tmp_path, "our-bucket", "us-west-2", "198.51.100.9/24") == (0, "")
        later = {one["VpcId"]: one for one in groups()}

        known = ec2.meta.service_model.operation_model("RunInstances").input_shape.members

    assert opened(group) == {("tcp", 22, CIDR), ("-1", None, group["GroupId"])}
    assert {kind: [one["GroupId"] for one in instance["SecurityGroups"]] for kind, instance in started.items()} == {
        "head": [group["GroupId"]],
        "gpu": [group["GroupId"]],
    }
    assert later[group["VpcId"]]["GroupId"] == group["GroupId"] and set(later) == {group["VpcId"], other["VpcId"]}
    assert all(opened(one) == {("tcp", 22, "198.51.100.0/24"), ("-1", None, one["GroupId"])} for one in later.values())
    assert "InstanceLifecycle" not in started["head"] and started["gpu"]["InstanceLifecycle"] == "spot"
    profiles = {kind: instance["IamInstanceProfile"]["Arn"].rpartition("/")[2] for kind, instance in started.items()}
    assert profiles == {"head": "sweeper-head", "gpu": "sweeper-worker"}
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] == 1
    assert set(AWS_NODE) == set(known) | {"SubnetIds"}

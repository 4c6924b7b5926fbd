"""What a cluster's head says before Ray connects to it: Ray itself tries a wrong token for 20 s, and then names neither it nor what would help."""

import json
import os
import platform
from dataclasses import dataclass
from typing import Any

import grpc
import ray
from ray._private.gcs_utils import create_gcs_channel
from ray._private.services import canonicalize_bootstrap_address, find_node_ids
from ray._raylet import AuthenticationTokenLoader, Config  # pyright: ignore[reportAttributeAccessIssue]
from ray.core.generated import gcs_service_pb2
from ray.core.generated import gcs_service_pb2_grpc as services
from ray.exceptions import AuthenticationError

messages: Any = gcs_service_pb2  # its classes are made when it is imported
_SECONDS = 10.0  # for one answer
_ALIVE = 0  # GcsNodeInfo.GcsNodeState
_MODE = "RAY_AUTH_MODE"
_TOKEN = "RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"


@dataclass(frozen=True)
class Head:
    """A head that answered: its versions, and the ids of its alive nodes."""

    ray_version: str
    python_version: str
    node_ids: frozenset[str]


def check_head(address: str) -> str:
    """Return the address as HOST:PORT once the head there has answered; how it authenticates is set where the user has not.

    Raises:
        ValueError: Saying what helps: for another form of address, no token or a wrong one, another Ray or Python, a machine outside the cluster.
        ConnectionError: If nothing answers.
    """
    if address.startswith("ray://"):
        raise ValueError(f"--address must be HOST:PORT of the head, or auto on a node of the cluster, got {address}; from elsewhere use --detach")
    found = canonicalize_bootstrap_address(address)
    if found is None:
        raise ConnectionError(f"no Ray cluster runs on this machine, where --address {address} looks for one; name its head as HOST:PORT")
    head = _admitted(found)
    ours = (ray.__version__, platform.python_version())
    theirs = (head.ray_version, head.python_version)
    if ours != theirs:
        raise ValueError(
            f"the cluster at {found} runs Ray {theirs[0]} on Python {theirs[1]}, this command Ray {ours[0]} on Python {ours[1]}; "
            "they must be the same, so run it in the environment of the cluster's nodes"
        )
    if not head.node_ids & set(find_node_ids()):
        raise ValueError(
            f"this machine is no node of the cluster at {found}, and a sweep is run from one: add --detach (or use `ray job submit`), "
            "or run the command on the head"
        )
    return found


def set_mode(mode: str) -> None:
    """Set how Ray authenticates; it keeps what it read when it was imported until it is told to read again."""
    os.environ[_MODE] = mode
    Config.initialize("")


def _admitted(address: str) -> Head:
    """Ask with the user's mode of authentication, else first without a token and then with one."""
    mode = os.environ.get(_MODE)
    if mode is None:
        set_mode("disabled")
        if (head := _asked(address)) is not None:
            return head
        set_mode("token")
    loader = AuthenticationTokenLoader.instance()
    loader.reset_cache()
    if os.environ[_MODE].lower() == "token":
        try:
            has_token = loader.has_token(ignore_auth_mode=True)
        except AuthenticationError as error:
            raise ValueError(f"the cluster's token cannot be read: {str(error).partition('. ')[0]}") from None
        if not has_token:
            raise ValueError(f"the cluster at {address} asks for a token, and there is none in {_TOKEN}; copy that of the head")
    head = _asked(address)
    if head is None and os.environ[_MODE].lower() != "token":
        raise ValueError(f"the cluster at {address} asks for a token, and {_MODE} is {mode}; unset it, or set it to token")
    if head is None:
        raise ValueError(f"the cluster at {address} refuses the token found in {_TOKEN}; copy that of the head")
    return head


def _asked(address: str) -> Head | None:
    """Return what the head says, None if it does not admit us.

    Raises:
        ConnectionError: If no head answers.
    """
    channel = create_gcs_channel(address)
    try:
        request = messages.InternalKVGetRequest(key=b"CLUSTER_METADATA", namespace=b"cluster")
        versions = json.loads(services.InternalKVGcsServiceStub(channel).InternalKVGet(request, timeout=_SECONDS).value)
        nodes = services.NodeInfoGcsServiceStub(channel).GetAllNodeInfo(messages.GetAllNodeInfoRequest(), timeout=_SECONDS).node_info_list
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:  # pyright: ignore[reportAttributeAccessIssue]
            return None
        details = str(error.details()).rpartition("Failed to connect to remote host: ")[2]  # pyright: ignore[reportAttributeAccessIssue]
        raise ConnectionError(f"no Ray head answers at --address {address}: {details}") from None
    finally:
        channel.close()
    return Head(versions["ray_version"], versions["python_version"], frozenset(node.node_id.hex() for node in nodes if node.state == _ALIVE))

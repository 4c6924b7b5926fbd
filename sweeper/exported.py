"""A trained defense as a folder that needs no results root: how it is laid out, and how it becomes a network again.

    defense.safetensors   every weight, under purifier.* and classifier.*, as trained: batch normalization is folded after loading
    config.json           what determines the two networks, the trial they are from, hashes, versions
    README.md             the model card; nothing reads it
    sources/              the user's own model files

`sweeper.load_defense` reads it. Nothing here needs Ray, Optuna, pyarrow or duckdb.
"""

import hashlib
import json
import os
import warnings
from collections.abc import Mapping
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from models import _folding
from sweeper.artifacts import content_hash
from sweeper.canonical import canonical_json
from sweeper.lookup import find, register_sources, version
from sweeper.scoring import Defense, laid_out

FORMAT = 1  # of the folder: raise it when an older program could not read it
WEIGHTS, CONFIG, CARD, SOURCES = "defense.safetensors", "config.json", "README.md", "sources"
NETWORKS = ("purifier", "classifier")


class ExportedDefense(Defense):
    """A purifier before a classifier, both frozen and in eval mode: images in [0, 1] (N, C, H, W) to logits (N, num_classes).

    Gradients reach the images. Logits do not depend on the images' memory layout, since they are laid out as a sweep's are. A purifier that draws at
    random draws from torch's global generator.

    Attributes:
        purifier, classifier: Images to images, images to logits; batch normalization is folded.
        config: What config.json holds.
        class_names: One per logit; empty where the data set has none.
    """

    def __init__(self, purifier: nn.Module, classifier: nn.Module, config: dict[str, Any]) -> None:
        super().__init__(purifier, classifier)
        self.config = config
        self.class_names: tuple[str, ...] = tuple(config["class_names"])

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(laid_out(images))

    def logits_and_codes(self, images: Tensor) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
        return super().logits_and_codes(laid_out(images))


def load_defense(path: str | os.PathLike[str], *, device: str | torch.device = "cpu") -> ExportedDefense:
    """Return an exported defense on a device, every file of it held to its hash.

    Networks are built, loaded and folded as a sweep does, so on the CPU, with equal threads and torch version, logits are those that were scored.

    Args:
        path: The folder that `export` wrote.

    Raises:
        FileNotFoundError: If a file is not there.
        ValueError: If a file is damaged (names it), or the code installed here is of another version than the exported one (names both).
    """
    folder = Path(path)
    config = _read_config(folder)
    register_sources(_read_sources(folder, config))
    _check_code(folder, config)
    weights = _read_weights(folder, config)
    purifier, classifier = (_network(config, name, weights[name], torch.device(device)) for name in NETWORKS)
    return ExportedDefense(purifier, classifier, config)


def digest_of(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in config.json but itself, hexadecimal; layout does not count."""
    return hashlib.sha256(canonical_json({name: value for name, value in config.items() if name != "sha256"}).encode()).hexdigest()


def source_path(name: str) -> str:
    """Return where the user's own file lies in the folder, from its canonical name `file:STEM@SHA`."""
    return f"{SOURCES}/{name.removeprefix('file:')}.py"


def installed_versions() -> dict[str, str]:
    return {"sweeper": version_of("sweeper"), "torch": torch.__version__}


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(
            f"no exported defense under {folder.absolute()}: it has no {CONFIG}; `python -m sweeper export TRIAL --to DIR` makes one"
        )
    try:
        config = json.loads(path.read_bytes())
        found, digest = config["format"], config["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged or of another program: {type(error).__name__}: {error}") from None
    if found != FORMAT:
        raise ValueError(f"{path} has format {found!r}, this version of sweeper ({version_of('sweeper')}) reads format {FORMAT}")
    if digest_of(config) != digest:
        raise ValueError(f"{path} is damaged or was changed: its content does not have the hash that it states ({digest})")
    return config


def _read_sources(folder: Path, config: Mapping[str, Any]) -> dict[str, str]:
    """Return the user's own model files by canonical name, each held to the hash in that name."""
    found = {}
    for name in sorted({config["networks"][network]["model"] for network in NETWORKS}):
        if not name.startswith("file:"):
            continue
        path = folder / source_path(name)
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing: the code of {name!r}, without which the defense cannot be built")
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest()[:16] != name.rpartition("@")[2]:
            raise ValueError(f"{path} is damaged or was changed: its hash is not the one in its name")
        found[name] = text.decode()
    return found


def _check_code(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse code of another version, which may compute something else from the same weights; warn of another torch."""
    exported, here = config["versions"], installed_versions()
    for name in NETWORKS:
        model, stored = config["networks"][name]["model"], config["networks"][name]["version"]
        _refuse_other(folder, f"{name} {model!r}", stored, version(find("models", model)), exported["sweeper"], config["git_commit"])
    _refuse_other(folder, "folding of batch normalization", str(config["folding"]), str(_folding.VERSION), exported["sweeper"], config["git_commit"])
    if _release(exported["torch"]) != _release(here["torch"]):
        warnings.warn(
            f"{folder} was exported with torch {exported['torch']} and is loaded with {here['torch']}: logits may differ in their last bits",
            stacklevel=4,
        )


def _refuse_other(folder: Path, what: str, stored: str, here: str, sweeper: str, commit: str | None) -> None:
    if stored != here:
        raise ValueError(
            f"{folder}: its {what} was exported with code of version {stored or 'none'}, and here is {here or 'none'}, which may compute something "
            f"else; install the sweeper that exported it ({sweeper}{f', commit {commit}' if commit else ''})"
        )


def _release(torch_version: str) -> str:
    return torch_version.partition("+")[0]  # without what it was built for


def _read_weights(folder: Path, config: Mapping[str, Any]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each network by their names in it, held to the hash in config.json."""
    path = folder / WEIGHTS
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing: the weights of the defense")
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    parts: dict[str, dict[str, Tensor]] = {name: {} for name in NETWORKS}
    for full, tensor in tensors.items():
        network, _, name = full.partition(".")
        if network not in parts:
            raise ValueError(f"{path} is damaged or of another program: it holds {full!r}, and names begin with {' or '.join(NETWORKS)}")
        parts[network][name] = tensor
    for name, part in parts.items():
        if (found := content_hash(part)) != (stored := config["networks"][name]["weights"]):
            raise ValueError(
                f"{path} is damaged or was changed: the weights of the {name} have the hash {found[:16]}, and {CONFIG} states {stored[:16]}"
            )
    return parts


def _network(config: Mapping[str, Any], name: str, weights: Mapping[str, Tensor], device: torch.device) -> nn.Module:
    """Return one network as `Materials.build` and `trained` make it: frozen, in eval mode, folded where it was trained."""
    described = config["networks"][name]
    module = find("models", described["model"])
    with torch.random.fork_rng(devices=[]):  # the caller's draws go on as if nothing had been built
        torch.default_generator.manual_seed(described["seed"])  # for what a user's network draws and keeps out of its weights
        network = module.build(module.Config(**described["model_options"]), tuple(config["image_shape"]), config["num_classes"])
    network = network.to(device=device, memory_format=torch.channels_last)
    network.load_state_dict(dict(weights))
    network.eval()
    return (_folding.fold_batch_norm(network) if described["is_trained"] else network).requires_grad_(False)

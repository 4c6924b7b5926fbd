"""Write a trained defense as a folder that outlives its results root, and hold the folder to the networks it was made from. Trains nothing.

The folder is written aside, loaded again and compared with the stored networks, and only then renamed, so half of one never appears. What lies in it:
`exported.py`, which reads it.
"""

import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from attacks._keyed import sample_keys, uniform_noise
from models import _folding
from sweeper.artifacts import Artifacts, content_hash
from sweeper.card import card
from sweeper.cells import Networks, networks_of
from sweeper.config import TrialConfig
from sweeper.datasets import Split, Splits
from sweeper.exported import CARD, CONFIG, FORMAT, NETWORKS, SOURCES, WEIGHTS, digest_of, installed_versions, load_defense, source_path
from sweeper.inspection import trial_named
from sweeper.lookup import find, register_sources, version
from sweeper.materials import Materials, Trained
from sweeper.provenance import git_commit
from sweeper.reproduction import StoredNetworks
from sweeper.results import Results
from sweeper.scoring import fix_draws, laid_out
from sweeper.scorings import scorings_of
from sweeper.training import numbers_from

COMPARED = 16  # images that the folder's logits are compared on


class _WithoutImages(Materials):
    """Materials that know the shape of a data set's images and its classes, which is all that building a network needs."""

    def __init__(self, artifacts: Artifacts, splits: Splits) -> None:
        super().__init__(artifacts, None, torch.device("cpu"))
        self._shapes = splits

    def splits(self, config: TrialConfig) -> Splits:
        return self._shapes


def export(results: Results, trial: str, to: str | Path, *, force: bool = False, data_root: Path | None = None) -> Path:
    """Write a completed trial's defense into the folder `to`; return its absolute path.

    Args:
        trial: The first characters of a trial's id.
        force: Replace an earlier export.
        data_root: Folder of the data set's files; read only where its module does not state IMAGE_SHAPE and CLASS_NAMES, as a user's own may.

    Raises:
        ValueError: If the trial is unknown or not completed, or its code has another version here; if a network is not stored, or is not the one
            that was scored; if the folder is there, and is no earlier export or not to be replaced; if what was written does not give the stored
            networks' logits bit for bit.
        OSError: If the folder cannot be written.
    """
    place = Path(os.path.realpath(to))
    _check_place(place, force)
    register_sources(results.kept_sources())
    name = trial_named(results, trial)
    found = results.read("trials", where={"trial_id": name}).to_pylist()
    if not found:
        raise ValueError(f"trial {name[:12]} is not completed, so there is nothing to export; `status SPACE` says how far it is")
    config = TrialConfig.model_validate(json.loads(found[0]["config"]))
    if config.trial_id != name:
        commit = f" (commit {found[0]['git_commit']})" if found[0]["git_commit"] else ""
        raise ValueError(
            f"by the versions of the code here this configuration is another trial, {config.trial_id[:12]}: its training has changed since{commit}, "
            "so its networks cannot be found; export it with the code of then"
        )
    remedy = (
        "export trains nothing, and `run` counts this trial as complete; `trial CONFIG.json` trains it again, with the configuration that "
        f"`show {name[:8]}` prints"
    )
    with tempfile.TemporaryDirectory(prefix="sweeper-export-") as folder, torch.random.fork_rng(devices=[]):
        materials = _materials(config, StoredNetworks(Path(folder), Artifacts(results.store), remedy), data_root)
        networks = networks_of(config, materials)
        _check_scored(results, name, networks)
        splits = materials.splits(config)
        images = _images(splits)
        logits = _logits(networks.defense, images)
        with torch.inference_mode():
            is_random = not torch.equal(logits, networks.defense(images))  # drawn on from where the first pass ended
        described = _described(config, found[0], networks, splits, is_random)
        text = card(config, found[0], described, *scorings_of(results, name, networks.final_name), place.name)
        aside = place.with_name(f".{place.name}.{uuid.uuid4().hex[:8]}.part")
        try:
            _write(aside, described, _weights(networks), text, results.kept_sources())
            _compare(aside, images, logits)
            _put(aside, place)
        finally:
            if aside.exists():  # else it was put in place
                shutil.rmtree(aside)
    return place


def _check_place(place: Path, force: bool) -> None:
    """Refuse a place that holds something, unless that is an earlier export and is to be replaced: --force deletes nothing else."""
    if place.exists() and not place.is_dir():
        raise ValueError(f"--to must be a folder, got the file {place}")
    there = sorted(path.name for path in place.iterdir()) if place.exists() else []
    if not there:
        return
    if not force:
        raise ValueError(f"the folder {place} is not empty; give another --to, or --force to replace an earlier export")
    foreign = [name for name in there if name not in (WEIGHTS, CONFIG, CARD, SOURCES)]
    if foreign or CONFIG not in there:
        why = f"it holds {', '.join(foreign[:3])}{' and more' if len(foreign) > 3 else ''}" if foreign else f"it has no {CONFIG}"
        raise ValueError(f"--force replaces an earlier export, and the folder {place} is none or more than that: {why}")


def _materials(config: TrialConfig, artifacts: Artifacts, data_root: Path | None) -> Materials:
    """Return materials without images, or with them where only they tell shape and classes."""
    module = find("datasets", config.dataset)
    if not hasattr(module, "IMAGE_SHAPE") or not hasattr(module, "CLASS_NAMES"):
        return Materials(artifacts, data_root, torch.device("cpu"))
    blank = Split(torch.zeros(1, *module.IMAGE_SHAPE), torch.zeros(1, dtype=torch.int64), ("none",))
    names = tuple(module.CLASS_NAMES)
    return _WithoutImages(artifacts, Splits(config.dataset, blank, blank, blank, len(names), names, config.fingerprint))


def _check_scored(results: Results, name: str, networks: Networks) -> None:
    """Refuse networks other than those that the tables' outcomes are of."""
    rows = results.read("scores", ["scored_on"], {"trial_id": name, "classifier": networks.final_name}).to_pylist()
    stored = sorted({row["scored_on"] for row in rows if row["scored_on"] is not None})
    here = networks.scored_on(networks.final_name)
    if any(one != here for one in stored):
        raise ValueError(
            f"the stored networks of trial {name[:12]} are {here}, and its outcomes are of {', '.join(stored)}: they are not the same weights"
        )


def _images(splits: Splits) -> Tensor:
    """Return fixed images, uniform in [0, 1], the same on every machine."""
    keys = sample_keys(0, [f"export-{number}" for number in range(COMPARED)])
    return laid_out((uniform_noise(keys, splits.image_shape, attack="export", epsilon=0.5) + 0.5).clamp(0, 1))


@torch.inference_mode()
def _logits(defense: torch.nn.Module, images: Tensor) -> Tensor:
    fix_draws("export")
    return defense(images)


def _weights(networks: Networks) -> dict[str, Tensor]:
    parts = zip(NETWORKS, (networks.purifier, networks.final), strict=True)
    # copies: safetensors refuses tensors that share memory, as an untrained network's may
    return {f"{part}.{name}": tensor.detach().cpu().contiguous().clone() for part, network in parts for name, tensor in network.weights.items()}


def _described(config: TrialConfig, trial: Mapping[str, Any], networks: Networks, splits: Splits, is_random: bool) -> dict[str, Any]:
    """Return what config.json holds."""
    target = config.target
    target_seed = numbers_from(config.target_seed, "classifier", target.model, sorted(target.model_options.items()))
    classifier_seed = numbers_from(config.seed, "retrain") if networks.retrained else target_seed  # as networks.py and materials.py build them
    purifier = _network(config.model, config.model_options, networks.purifier, numbers_from(config.seed, "purifier"), config.network.is_trained)
    classifier = _network(target.model, target.model_options, networks.final, classifier_seed, is_trained=True)
    described = {
        "program": "sweeper",
        "format": FORMAT,
        "trial_id": config.trial_id,
        "variant_id": trial["variant_id"],
        "trial": config.model_dump(mode="json"),
        "final_classifier": networks.final_name,
        "image_shape": list(splits.image_shape),
        "num_classes": splits.num_classes,
        "class_names": list(splits.class_names),
        "networks": dict(zip(NETWORKS, (purifier, classifier), strict=True)),
        "scored_on": networks.scored_on(networks.final_name),
        "folding": _folding.VERSION,
        "is_random": is_random,
        "versions": installed_versions(),
        "git_commit": git_commit(),
    }
    return described | {"sha256": digest_of(described)}


def _network(model: str, options: Mapping[str, Any], network: Trained, seed: int, is_trained: bool) -> dict[str, Any]:
    """Return what a network is built from; `weights` is the hash that its artifact was stored with, so the folder is held to that."""
    weights = network.content if network.weights else content_hash({})
    code = version(find("models", model))
    return {"model": model, "model_options": dict(options), "version": code, "seed": seed, "is_trained": is_trained, "weights": weights}


def _write(folder: Path, described: Mapping[str, Any], weights: Mapping[str, Tensor], text: str, sources: Mapping[str, str]) -> None:
    files = {
        WEIGHTS: save(dict(weights)),
        CONFIG: json.dumps(described, indent=1, ensure_ascii=False).encode(),
        CARD: text.encode(),
    }
    own = {described["networks"][network]["model"] for network in NETWORKS}
    files |= {source_path(name): sources[name].encode() for name in own if name.startswith("file:")}
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with open(folder / name, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())


def _compare(folder: Path, images: Tensor, logits: Tensor) -> None:
    """Load what was written, which holds it to its hashes, and compare its logits with those of the stored networks."""
    found = _logits(load_defense(folder), images)
    if not torch.equal(found, logits):
        largest = float((found - logits).abs().max())
        raise ValueError(
            f"the exported defense does not give the logits of the stored networks: they differ by up to {largest:g}; nothing was exported"
        )


def _put(aside: Path, place: Path) -> None:
    """Rename a whole folder to its place; an earlier one there is deleted after that."""
    earlier = None
    if place.exists() and any(place.iterdir()):
        earlier = aside.with_suffix(".old")
        os.rename(place, earlier)
    try:
        os.rename(aside, place)
    except OSError:
        if earlier is not None:
            os.rename(earlier, place)
        raise
    if earlier is not None:
        shutil.rmtree(earlier)

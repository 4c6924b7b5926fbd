"""What trials share: the data, the original target, the transfer sources, the gray-box and transfer adversarial sets.

Each is an artifact, so a sweep makes it once and every later sweep finds it. An adversarial set is kept as fp16 perturbations; what is scored is
always what the file holds, clipped again to the ball and to [0, 1] and verified, so the maker and a later reader see the same images.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from attacks._keyed import sample_keys
from models._folding import fold_batch_norm
from sweeper.artifacts import Artifacts, Bundle
from sweeper.config import Classifier, TrialConfig
from sweeper.data_in_root import stored_splits
from sweeper.datasets import Split, Splits, load, stratified_indices
from sweeper.evaluations import Cell, EvaluationConfig
from sweeper.keys import crafting_sources, sample_set_id, set_key
from sweeper.lookup import find
from sweeper.options import attack_module, check_scorable
from sweeper.recipes import Training
from sweeper.training import Loss, classification_loss, fit, numbers_from

Progress = Callable[[str, int, int, dict[str, float]], None]  # stage, epoch or batch, of how many, figures


def no_progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
    """Report nothing."""


@dataclass(frozen=True)
class Trained:
    """A network in eval mode, frozen and folded, the weights it was trained to, their content hash, and the training's epochs."""

    module: nn.Module
    weights: Mapping[str, Tensor]
    content: str
    epochs: list[dict[str, float]]
    seconds: float
    parameters: int = 0  # counted before folding


@dataclass(frozen=True)
class SampleSet:
    """An ordered list of images of a split; outcome lists follow its order.

    `transfer_source` (N,) says which of the sources attacks each image under `transfer`: keyed by sample id, a third of each class.
    """

    name: str
    split: str
    positions: Tensor
    sample_ids: tuple[str, ...]
    images: Tensor
    labels: Tensor
    keys: Tensor
    transfer_source: Tensor

    def take(self, positions: Tensor) -> "SampleSet":
        """Return some of the images, in the order of positions (M,)."""
        chosen = positions.to(self.images.device)
        return SampleSet(
            name=self.name,
            split=self.split,
            positions=self.positions[positions],
            sample_ids=tuple(self.sample_ids[int(i)] for i in positions),
            images=self.images[chosen],
            labels=self.labels[chosen],
            keys=self.keys[positions],
            transfer_source=self.transfer_source[positions],
        )


@dataclass(frozen=True)
class AdversarialSet:
    """A shared set as stored: perturbations fp16 (E, N, C, H, W) and where they came from."""

    samples: SampleSet
    epsilons: tuple[float, ...]
    deltas: Tensor
    crafted_on: str
    seconds: float
    forwards: int
    backwards: int

    def images(self, index: int, start: int = 0, stop: int | None = None) -> Tensor:
        """Return the adversarial images at epsilons[index], (N, C, H, W) in [0, 1], inside the ball."""
        clean = self.samples.images[start:stop]
        epsilon = self.epsilons[index]
        delta = self.deltas[index, start:stop].to(clean.device, torch.float32).clamp(-epsilon, epsilon)
        return (clean + delta).clamp(0, 1)

    def achieved(self, index: int) -> float:
        """Return the largest perturbation that was reached at epsilons[index]."""
        return float((self.images(index) - self.samples.images).abs().max())


class Materials:
    """Shared artifacts of trials, found or made on one device."""

    def __init__(
        self,
        artifacts: Artifacts,
        data_root: Path | None,
        device: torch.device,
        progress: Progress = no_progress,
        *,
        takes_data_from_root: bool = False,
    ) -> None:
        self.artifacts = artifacts
        self.data_root = data_root
        self.device = device
        self.progress = progress
        self.takes_data_from_root = takes_data_from_root
        artifacts.on_wait = lambda who: self.progress(f"waits for {who}, which makes what is needed,", 0, 1, {})
        self._splits: dict[str, Splits] = {}
        self._samples: dict[tuple[str, str, int | None, int, int], SampleSet] = {}

    @classmethod
    def of_splits(cls, splits: Splits) -> "Materials":
        """Return materials for data at hand: sample sets only, nothing is stored."""
        materials = cls(Artifacts(Path()), None, torch.device("cpu"))
        materials._splits[splits.fingerprint] = splits
        return materials

    def splits(self, config: TrialConfig) -> Splits:
        """Return the trial's data.

        Raises:
            ValueError: If the images at hand are not those the configuration was made for.
        """
        found = self._splits.get(config.fingerprint)
        if found is None:
            found = stored_splits(self.artifacts, config.fingerprint) if self.takes_data_from_root else None
            found = found or load(config.dataset, root=self.data_root, caps=config.caps)
            if config.fingerprint and found.fingerprint != config.fingerprint:
                raise ValueError(
                    f"the images of {config.dataset} here (fingerprint {found.fingerprint[:12]}) are not those of the plan "
                    f"({config.fingerprint[:12]}); give the same data folder and scale"
                )
            self._splits[found.fingerprint] = found
        return found

    def build(self, config: TrialConfig, model: str, options: dict[str, object], seed: int) -> nn.Module:
        """Return a freshly initialised module of `models/`, on the device, in channels-last layout."""
        splits, module = self.splits(config), find("models", model)
        torch.manual_seed(seed)
        network = module.build(module.Config(**options), splits.image_shape, splits.num_classes)
        return network.to(device=self.device, memory_format=torch.channels_last)

    def trained(
        self,
        config: TrialConfig,
        kind: str,
        key: str,
        module: nn.Module,
        recipe: Training,
        prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Loss]],
        *,
        seed: int,
        stage: str,
        what: str,
        phase_keys: Mapping[int, str] | None = None,
    ) -> Trained:
        """Return a network with the weights stored under key, trained now where there are none: on from the last phase whose end is stored.

        Args:
            kind: The artifact's: `classifiers`, `purifiers`, `retrained`.
            prepare: Clean training images and labels -> those to train on, and the loss; called only if it is trained now.
            stage: What the progress calls it.
            what: What an error calls the network.
            phase_keys: Last epoch of each phase -> the key of the training that ends with it.
        """
        phase_states = {epoch: self.artifacts.phase_state(each) for epoch, each in (phase_keys or {}).items()}

        def make() -> Bundle:
            train = self.splits(config).train
            images, labels = train.images.to(self.device), train.labels.to(self.device)
            images, labels, loss = prepare(images, labels)
            done = fit(
                module,
                images,
                labels,
                recipe,
                loss,
                seed=seed,
                numerics=config.numerics,
                checkpoint=self.artifacts.checkpoint(key),
                phase_states=phase_states,
                on_epoch=lambda row: self.progress(stage, int(row["epoch"]), recipe.num_epochs, row),
                name=f"training of {what}",
            )
            return Bundle(module.state_dict(), {"epochs": done.epochs, "seconds": done.seconds})

        bundle = self.artifacts.get_or_create(kind, key, make)
        module.load_state_dict(dict(bundle.tensors))
        parameters = _count_parameters(module)
        folded = fold_batch_norm(module.eval()).requires_grad_(False)
        return Trained(folded, bundle.tensors, bundle.content, list(bundle.info["epochs"]), float(bundle.info["seconds"]), parameters)

    def initialize(self, module: nn.Module, images: Tensor, seed: int) -> None:
        """Let a module that wants it see the training images before it is trained."""
        initialize = getattr(module, "initialize", None)
        if initialize is not None:
            initialize(images, torch.Generator(self.device).manual_seed(seed))

    def classifier(self, config: TrialConfig, recipe: Classifier) -> Trained:
        """Return a classifier trained on the clean training images: the original target, or a transfer source."""
        seed = numbers_from(config.target_seed, "classifier", recipe.model, sorted(recipe.model_options.items()))
        module = self.build(config, recipe.model, recipe.model_options, seed)

        def prepare(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Loss]:
            self.initialize(module, images, seed)
            return images, labels, classification_loss(module)

        key = config.classifier_key(recipe)
        return self.trained(config, "classifiers", key, module, recipe.training, prepare, seed=seed, stage="train", what=recipe.model)

    def samples(self, config: TrialConfig, evaluation: EvaluationConfig, count: int | None) -> SampleSet:
        """Return all images of the evaluation's split, or a fixed subset of them, stratified by class."""
        sources = max(1, len(evaluation.sources))
        name = (config.fingerprint, evaluation.split, count, evaluation.seed, sources)  # everything below that may differ within a process
        if name not in self._samples:
            split: Split = getattr(self.splits(config), evaluation.split)
            positions = torch.as_tensor(stratified_indices(split.labels, min(count or len(split.labels), len(split.labels)), seed=0))
            ids = tuple(split.sample_ids[int(i)] for i in positions)
            labels = split.labels[positions]
            self._samples[name] = SampleSet(
                name=sample_set_id(evaluation.split, ids, len(evaluation.sources)),
                split=evaluation.split,
                positions=positions,
                sample_ids=ids,
                images=split.images[positions].to(self.device),
                labels=labels.to(self.device),
                keys=sample_keys(evaluation.seed, ids),
                transfer_source=_assign(ids, labels, sources),
            )
        return self._samples[name]

    def adversarial(
        self, config: TrialConfig, evaluation: EvaluationConfig, cell: Cell, retrained: Trained | None = None, only: Tensor | None = None
    ) -> AdversarialSet:
        """Return a gray-box set (crafted on the victim) or a transfer set (each image on its own source, or all on the one that the cell names).

        Args:
            retrained: The trial's own classifier, where it is the victim; that set serves one trial, so it is crafted and not kept.
            only: Positions of the images that are needed, of such a set.
        """
        samples = self.samples(config, evaluation, cell.images)
        if only is not None and retrained is not None:
            samples = samples.take(only)
        check_scorable(cell.attack, cell.threat)
        attack = attack_module(cell.attack, cell.threat)

        def make() -> Bundle:
            spread = cell.threat == "transfer" and cell.source is None
            owner = samples.transfer_source if spread else torch.zeros_like(samples.transfer_source)
            started, counts = time.monotonic(), {"forwards": 0, "backwards": 0}
            deltas = torch.zeros((len(cell.epsilons), *samples.images.shape), dtype=torch.float16)
            if cell.threat == "transfer":
                sources = [self.classifier(config, recipe) for recipe in crafting_sources(evaluation, cell)]
            else:
                sources = [retrained or self.classifier(config, config.target)]
            batches = [
                (source, picked)
                for index, source in enumerate(sources)
                for picked in torch.split((owner == index).nonzero()[:, 0], evaluation.batch_size)
            ]
            for done, (source, picked) in enumerate(batches, 1):
                images = samples.images[picked].contiguous(memory_format=torch.channels_last)
                labels = samples.labels[picked] if cell.labels == "true" else predicted(source.module, images)
                settings = {"config": attack.Config(**cell.options)} if hasattr(attack, "Config") else cell.options
                with counted(source.module, counts):
                    adversarial = attack.perturb(source.module, images, labels, epsilons=cell.epsilons, keys=samples.keys[picked], **settings)
                deltas[:, picked] = (adversarial - images).to(torch.float16).cpu()
                self.progress(f"{cell.threat} {cell.attack}", done, len(batches), {})
            if not torch.isfinite(deltas).all():
                raise ArithmeticError(f"{cell.attack} under {cell.threat} made images that are not finite")
            info = {"crafted_on": "+".join(s.content[:16] for s in sources), "seconds": time.monotonic() - started, **counts}
            return Bundle({"deltas": deltas}, info | {"cell": cell.model_dump(mode="json"), "sample_set": samples.name})

        bundle = make() if retrained else self.artifacts.get_or_create("adversarial", set_key(config, evaluation, cell), make)
        info = bundle.info
        return AdversarialSet(
            samples, cell.epsilons, bundle.tensors["deltas"], info["crafted_on"], info["seconds"], info["forwards"], info["backwards"]
        )


@torch.inference_mode()
def predicted(classifier: nn.Module, images: Tensor) -> Tensor:
    """Return the classes that a classifier says, int64 (N,)."""
    return classifier(images).argmax(1)


def _count_parameters(module: nn.Module) -> int:
    """Return how many parameters a network uses once trained: without those of the parts it names in `training_only` (a discriminator)."""
    unused = {id(p) for name in getattr(module, "training_only", ()) for p in module.get_submodule(name).parameters()}
    return sum(parameter.numel() for parameter in module.parameters() if id(parameter) not in unused)


@contextmanager
def counted(module: nn.Module, counts: dict[str, int]) -> Iterator[None]:
    """Count the images that pass forward and backward through a module, into `counts["forwards"]` and `counts["backwards"]`."""

    def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        count = len(output)
        counts["forwards"] += count
        if output.requires_grad:
            output.register_hook(lambda gradient: backward(count))

    def backward(count: int) -> None:
        counts["backwards"] += count

    handle = module.register_forward_hook(forward)
    try:
        yield
    finally:
        handle.remove()


def _assign(sample_ids: Sequence[str], labels: Tensor, sources: int) -> Tensor:
    """Return the source of each image, int64 (N,): within each class in turn, in an order keyed by sample id."""
    keys = sample_keys(0, sample_ids)
    owner = torch.zeros(len(labels), dtype=torch.int64)
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        owner[members[keys[members].argsort(stable=True)]] = (torch.arange(len(members)) + int(label)) % sources
    return owner

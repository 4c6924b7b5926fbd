"""What things are called in a report: data sets, systems, attacks; which system belongs in which table; what the paper printed."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sweeper.report.trials import Material, Row, Variant, base_name

DATASETS = {"digits": "digits", "fashion_mnist": "Fashion-MNIST", "cifar10": "CIFAR-10"}
ATTACKS = {"fgsm": "FGSM", "bim": "BIM", "pgd": "PGD", "cw": "CW", "cw_l2": "CW (L2, clipped)"}
MODELS = {
    "vqunet": "VQUNet",
    "unet": "non-VQUNet",
    "defense_cyclegan": "Defense-CycleGAN",
    "hfl_vae": "HFL-VAE",
    "defense_vae": "Defense-VAE",
}
BASELINES = ("defense_cyclegan", "hfl_vae", "defense_vae")
_ADVERSARIES = {"pgd": "PGD adversarial training", "fgsm_rs": "fast adversarial training (FGSM-RS)"}

# He and Singhal, Table 1: accuracy of the target on unfiltered images, then on those that a system filtered; their difference is printed too.
PAPER_BEFORE = {"cifar10": 0.9403, "fashion_mnist": 0.9431}
PAPER_AFTER = {
    "cifar10": {"vqunet": 0.9308, "defense_cyclegan": 0.9178, "hfl_vae": 0.8651, "defense_vae": 0.7884},
    "fashion_mnist": {"vqunet": 0.9339, "defense_cyclegan": 0.9313, "hfl_vae": 0.9281, "defense_vae": 0.9283},
}

# Fingerprints of the JPEG copy of CIFAR-10 in the official layout, cut as the scales small, medium and paper cut it. The copy cannot be told by
# its layout, and what is measured on it must never be quoted as a figure on CIFAR-10.
JPEG_FINGERPRINTS = frozenset(
    {
        "1b3d01292660659f0b639ccbe0a0f3e899fb4e87b4cd95a42745eee1d688d32d",
        "37254416fa515d24f9da96353f69bd1049b3fea0f732567fffcdc996b4d287a5",
        "4f3ae223dbcb9710195567633bf799537e9887352d4f3ccfaf5ad71e816d0bd9",
    }
)


def configuration(settings: Row) -> Row:
    """Return the complete configuration that a row of `trials` holds as JSON; empty without one."""
    return json.loads(settings.get("config") or "{}")


def fingerprint(material: Material) -> str:
    return next((str(configuration(trial.settings).get("fingerprint", "")) for trial in material.trials), "")


def dataset_name(material: Material) -> str:
    """Return the data set's name as figures print it: `CIFAR-10-JPEG` for the copy that is known, and no bare `CIFAR-10` for one that is not."""
    name = DATASETS.get(material.dataset, material.dataset)
    if material.dataset != "cifar10":
        return name
    found = fingerprint(material)
    return "CIFAR-10-JPEG" if found in JPEG_FINGERPRINTS else f"CIFAR-10 (copy {found[:8] or 'unknown'})"


def attack_name(attack: str) -> str:
    """Return `PGD` for `pgd`; a second run of one attack keeps the hash of its settings."""
    base = base_name(attack)
    return ATTACKS.get(base, base) + attack[len(base) :]


def epsilon_name(epsilon: float) -> str:
    """Return `8/255` or `0.1`."""
    whole = epsilon * 255
    if abs(epsilon - round(epsilon, 4)) < 1e-9:
        return f"{epsilon:g}"
    return f"{round(whole, 2):g}/255" if abs(whole - round(whole, 2)) < 1e-6 else f"{epsilon:.4g}"


@dataclass(frozen=True)
class System:
    """A variant under the one name that it has in all figures: `VQUNet`, or `VQUNet (unranked: C9)` where a validity check fails."""

    plain: str
    kind: str  # `vqunet`, `unet`, a baseline's model, `control`, `other`
    variant: Variant

    @property
    def name(self) -> str:
        return f"{self.plain} ({self.variant.unranked})" if self.variant.unranked else self.plain


@dataclass(frozen=True)
class Systems:
    """Who stands in which table. `equal` and `recipes` are the paper's two fairness tables; a sweep that is not the paper's has neither."""

    equal: tuple[System, ...]
    recipes: tuple[System, ...]
    controls: tuple[System, ...]
    others: tuple[System, ...]

    @property
    def is_paper(self) -> bool:
        return bool(self.equal or self.recipes)

    @property
    def all(self) -> tuple[System, ...]:
        """Return everyone once: the fairness tables, then the others (the reference of another sweep first), then the controls."""
        found: dict[str, System] = {}
        for system in (*self.equal, *self.recipes, *self.others, *self.controls):
            found.setdefault(system.name, system)
        return tuple(found.values())

    @property
    def undefended(self) -> System | None:
        return next((system for system in self.controls if system.variant.is_undefended), None)

    @property
    def primary(self) -> tuple[System, ...]:
        """Return the systems that the paper's sentences are about: trained as their authors did, else on equal information."""
        return self.recipes if any(system.kind == "vqunet" for system in self.recipes) else self.equal

    def one(self, kind: str, among: Sequence[System] | None = None) -> System | None:
        return next((system for system in (self.primary if among is None else among) if system.kind == kind), None)


def ranked_first(systems: Sequence[System]) -> list[System]:
    """Return those that fail a validity check behind the others, else in their order."""
    return sorted(systems, key=lambda system: bool(system.variant.failed))


def systems_of(material: Material) -> Systems:
    """Return the plan's systems with their names, from their settings and never from their labels.

    Equal information: every trained system with `train_input` adv and its default KL weight. Authors' recipes: VQUNet and non-VQUNet on clean
    images, the two VAEs on adversarial pairs with KL weight 0 (as Defense-VAE's released script), Defense-CycleGAN on adversarial pairs. A sweep
    without VQUNet and a baseline has no fairness tables: its variants go by their labels. Variants without any completed trial are left out.
    """
    done = [variant for variant in material.variants if variant.trials]
    controls = [variant for variant in done if _is_control(variant)]
    trained = [variant for variant in done if not _is_control(variant)]
    is_paper = any(kind(v) == "vqunet" for v in trained) and any(kind(v) in BASELINES for v in trained)
    equal: dict[str, Variant] = {}
    recipes: dict[str, Variant] = {}
    if is_paper:
        plain = [variant for variant in trained if _is_plain(variant, material)]
        for model in MODELS:
            mine = sorted((v for v in plain if kind(v) == model), key=lambda v: (not v.is_reference, v.factor.count("+"), v.label))
            adversarial = [v for v in mine if v.settings.get("train_input") == "adv"]
            if adversarial:
                equal[model] = next((v for v in adversarial if v.settings.get("kl_weight") != 0), adversarial[0])
            own = adversarial
            if model in ("vqunet", "unet"):
                own = [v for v in mine if v.settings.get("train_input") == "clean"]
            elif model in ("hfl_vae", "defense_vae"):
                own = [v for v in adversarial if v.settings.get("kl_weight") == 0]
            if own:
                recipes[model] = own[0]
        if "vqunet" not in recipes:
            recipes = {}  # a table of one baseline's recipe compares nothing
    in_tables = [id(variant) for variant in (*equal.values(), *recipes.values())]
    shared = {model for model in equal if equal[model] is recipes.get(model)}
    equal_systems = tuple(System(MODELS[model], model, variant) for model, variant in equal.items())
    suffix = " (own recipe)" if equal else ""
    recipe_systems = tuple(System(MODELS[m] + ("" if m in shared else suffix), m, variant) for m, variant in recipes.items())
    others = [variant for variant in trained if id(variant) not in in_tables]
    named = {id(variant): _control_name(variant) for variant in controls}
    counts = Counter(named.values())
    return Systems(
        equal_systems,
        recipe_systems,
        tuple(System(named[id(v)] if counts[named[id(v)]] == 1 else f"{named[id(v)]} ({v.label})", "control", v) for v in controls),
        _by_label(others),
    )


def labelled(material: Material) -> Systems:
    """Return the variants with a completed trial under their own labels, in no table of the paper: the trials of a search."""
    return Systems((), (), (), _by_label([variant for variant in material.variants if variant.trials]))


def kind(variant: Variant) -> str:
    """Return the variant's model, and `unet` for a VQUNet without quantization."""
    row = variant.settings
    is_bare = row.get("quantize") is False or row.get("quantizer") == "none"
    return "unet" if row.get("model") == "vqunet" and is_bare else str(row.get("model"))


def _is_control(variant: Variant) -> bool:
    """Say whether nothing of the purifier was trained: no defense, the retrained target alone, filters, adversarial training of the target."""
    return variant.settings.get("num_epochs") is None


def _is_plain(variant: Variant, material: Material) -> bool:
    """Say whether the variant differs from the protocol's default in nothing but model and training information."""
    row, reference = variant.settings, next((v.settings for v in material.variants if v.is_reference and v.trials), {})
    return (
        variant.evaluation_id == material.reference_evaluation
        and row.get("passes") in (None, 1)
        and row.get("adversary") in (None, "none")
        and row.get("retrain") == reference.get("retrain", "finetune")
    )


def _by_label(variants: Sequence[Variant]) -> tuple[System, ...]:
    counts = Counter(variant.label for variant in variants)
    return tuple(
        System(v.label if counts[v.label] == 1 else f"{v.label} (evaluation {v.evaluation_id[:6]})", kind(v) if kind(v) in MODELS else "other", v)
        for v in variants
    )


def _control_name(variant: Variant) -> str:
    row = variant.settings
    adversary = row.get("adversary")
    if adversary not in (None, "none"):
        return _ADVERSARIES.get(str(adversary), f"adversarial training ({adversary})")
    if row.get("model") == "identity":
        return "no defense" if row.get("retrain") == "none" else "retrained target alone"
    return str(row.get("model")).replace("_", " ")

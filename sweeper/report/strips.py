"""Images of each system: clean, adversarial, purified, and what is left of the difference."""

import io

import numpy as np
from PIL import Image

from sweeper.lookup import find
from sweeper.report.content import Picture, Strip, Strips
from sweeper.report.naming import System, Systems, attack_name, epsilon_name
from sweeper.report.rows import read
from sweeper.report.trials import Material, Row
from sweeper.results import Results

GAIN = 4  # of the difference, the same for all systems so that they can be compared
_COLUMNS = ["trial_id", "evaluation_id", "threat", "attack", "epsilon", "position", "sample_id", "label", "predicted_clean", "predicted_adversarial",
            "clean", "adversarial", "purified_clean", "purified"]  # fmt: skip


def strips(results: Results, material: Material, systems: Systems) -> Strips:
    """Return the strips of every system's first seed, gray-box first; none where the table holds none of these trials."""
    caption = (
        f"The same images for every system, seed {_first_seed(systems)}. Difference: |purified adversarial - clean| times {GAIN}, black is none; it "
        "holds the error of the reconstruction as well as what is left of the attack. Under the images: the class predicted, against the label."
    )
    trials = {system.variant.trials[0].trial_id: system for system in systems.all}
    rows = read(results, "strips", _COLUMNS, {"trial_id": sorted(trials)})
    found: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in sorted(rows, key=lambda row: row["position"]):
        if row["evaluation_id"] == trials[row["trial_id"]].variant.evaluation_id:
            found.setdefault((row["trial_id"], row["threat"], row["attack"], row["epsilon"]), []).append(row)
    names = _class_names(material.dataset)
    made = []
    for trial_id, system in trials.items():
        mine = [(key, images) for key, images in found.items() if key[0] == trial_id]
        for (_, threat, attack, epsilon), images in sorted(mine, key=lambda item: (item[0][1] != "graybox", item[0])):
            made.append(_strip(system, threat, attack, epsilon, images, names))
    return Strips("strips", "Images", caption if made else "The results root holds no images of these trials.", tuple(made))


def difference(clean: bytes, purified: bytes) -> bytes:
    """Return |purified - clean| times GAIN as PNG, clipped at white.

    Raises:
        ValueError: If the two images differ in size or mode.
    """
    first, second = (_pixels(png) for png in (clean, purified))
    if first.shape != second.shape:
        raise ValueError(f"a difference needs two images of one shape, got {first.shape} and {second.shape}")
    scaled = np.clip(GAIN * np.abs(second.astype(np.int32) - first), 0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(scaled).save(out, format="PNG")
    return out.getvalue()


def _pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def _strip(system: System, threat: str, attack: str, epsilon: float, images: list[Row], names: tuple[str, ...]) -> Strip:
    def word(label: int) -> str:
        return names[label] if 0 <= label < len(names) else str(label)

    def verdict(row: Row, predicted: int) -> str:
        return f"{word(predicted)}, right" if predicted == row["label"] else f"{word(predicted)}, wrong (is {word(row['label'])})"

    rows = (
        ("clean", tuple(Picture(row["clean"], word(row["label"])) for row in images)),
        ("adversarial", tuple(Picture(row["adversarial"]) for row in images)),
        ("purified clean", tuple(Picture(row["purified_clean"], verdict(row, row["predicted_clean"])) for row in images)),
        ("purified adversarial", tuple(Picture(row["purified"], verdict(row, row["predicted_adversarial"])) for row in images)),
        (f"difference x {GAIN}", tuple(Picture(difference(row["clean"], row["purified"])) for row in images)),
    )
    return Strip(system.name, rows, f"{threat} {attack_name(attack)} at epsilon {epsilon_name(epsilon)}")


def _class_names(dataset: str) -> tuple[str, ...]:
    return tuple(getattr(find("datasets", dataset), "CLASS_NAMES", ()))


def _first_seed(systems: Systems) -> int:
    return min((system.variant.trials[0].seed for system in systems.all), default=0)

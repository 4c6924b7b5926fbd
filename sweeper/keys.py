"""The names of everything that a trial needs and leaves: evaluations, adversarial sets, outcomes, parts of tables.

Each is a pure function of configurations, so a plan knows what is stored, and a trial aims at the same file whoever runs it, how often, and where.
"""

from collections.abc import Sequence

from sweeper.canonical import KEY_LENGTH, canonical_json, key_of
from sweeper.config import Classifier, TrialConfig
from sweeper.evaluations import Cell, EvaluationConfig

SCORING_VERSION = 1  # of scoring.py and materials.py: what turns weights and images into outcomes
PROBES_VERSION = 1  # of probes/: raise it when a probe would find something else; stored checks are then made anew


def attack_label(cell: Cell, evaluation: EvaluationConfig) -> str:
    """Return the attack's name, with a short hash of its settings where the evaluation runs it twice under one threat."""
    twins = [other for other in evaluation.cells if (other.threat, other.attack, other.source) == (cell.threat, cell.attack, cell.source)]
    if len(twins) == 1:
        return cell.attack
    return f"{cell.attack}#{key_of('options', options=cell.options, epsilons=cell.epsilons, images=cell.images)[:6]}"


def attack_settings(cell: Cell) -> str:
    """Return an attack's complete settings as rows store them, canonical JSON."""
    return canonical_json({"attack": cell.attack, "options": cell.options, "labels": cell.labels, "version": cell.version})


def cell_content(cell: Cell, evaluation: EvaluationConfig) -> dict[str, object]:
    """Return what an attack's result depends on beside the networks and the data."""
    return {
        **cell.model_dump(mode="json"),
        "version": cell.version,
        "scoring_version": SCORING_VERSION,
        "split": evaluation.split,
        "seed": evaluation.seed,
        "batch_size": evaluation.batch_size,
    }


def evaluation_id(config: TrialConfig, evaluation: EvaluationConfig) -> str:
    """Return the identity of an evaluation on a data set: attack settings, grids, sample sets, sources, numerics."""
    return key_of(
        "evaluation",
        name=evaluation.name,
        data=config.fingerprint,
        cells=[cell_content(cell, evaluation) for cell in evaluation.cells],
        sources=[config.classifier_key(source) for source in evaluation.sources],
        score_epsilon=evaluation.score_epsilon,
        numerics=config.numerics,
    )


def craft_keys(config: TrialConfig, evaluation: EvaluationConfig, cell: Cell) -> list[str]:
    """Return the keys of the classifiers that a set is crafted on: the victim, all transfer sources, or the one of them that the cell names."""
    if cell.threat == "transfer":
        return [config.classifier_key(source) for source in crafting_sources(evaluation, cell)]
    if cell.victim == "retrained" and config.retrained_key is not None:
        return [config.retrained_key]
    return [config.target_key]


def crafting_sources(evaluation: EvaluationConfig, cell: Cell) -> tuple[Classifier, ...]:
    """Return the transfer sources that a cell's images are crafted on."""
    return evaluation.sources if cell.source is None else evaluation.sources[cell.source : cell.source + 1]


def set_key(config: TrialConfig, evaluation: EvaluationConfig, cell: Cell) -> str:
    """Return the key of a gray-box or transfer adversarial set, the same for every trial with this target (and, if it is the victim, classifier)."""
    return key_of(
        "adversarial",
        data=config.fingerprint,
        crafted_on=craft_keys(config, evaluation, cell),
        cell=cell_content(cell, evaluation),
        numerics=config.numerics,
    )


def outcome_key(config: TrialConfig, evaluation: EvaluationConfig, cell: Cell) -> str:
    """Return the key of one cell's outcomes on one defense: any evaluation that holds the cell finds them."""
    shared = set_key(config, evaluation, cell) if cell.threat in ("graybox", "transfer") else None
    return key_of(
        "outcomes",
        defense=config.defense_key,
        data=config.fingerprint,
        cell=cell_content(cell, evaluation),
        crafted=shared,
        numerics=config.numerics,
    )


def part_key(table: str, *words: str) -> str:
    return key_of("part", table=table, words=list(words))


def scores_part(trial_id: str, evaluation: str, cell: Cell, label: str) -> str:
    return part_key("scores", trial_id, evaluation, cell.threat, label, *([] if cell.source is None else [str(cell.source)]))


def health_part(trial_id: str, evaluation: str) -> str:
    """Return the key of the checks that every trial is asked; probes that would find something else make a new part."""
    return part_key("checks", trial_id, evaluation, "health", str(PROBES_VERSION))


def strength_part(trial_id: str, evaluation: str, level: str, check: str) -> str:
    """Return the key of one check that attacks a trial again."""
    return part_key("checks", trial_id, evaluation, level, check, str(PROBES_VERSION))


def distances_part(trial_id: str, evaluation: str, cell: Cell, label: str) -> str:
    return part_key("distances", trial_id, evaluation, cell.threat, label)


def expected_parts(config: TrialConfig, evaluation: EvaluationConfig, trial_id: str, name: str) -> list[str]:
    """Return `table/part_key` of every part that a completed trial has, `trials` last; name is the `evaluation_id`."""
    parts = []
    for cell in evaluation.cells:
        table, part = ("distances", distances_part) if cell.measures_distance else ("scores", scores_part)
        parts.append(f"{table}/{part(trial_id, name, cell, attack_label(cell, evaluation))}")
    parts.append(f"latents/{part_key('latents', trial_id, name)}")
    if evaluation.strip_cells:
        parts.append(f"strips/{part_key('strips', trial_id, name)}")
    if evaluation.is_checked:
        parts.append(f"checks/{health_part(trial_id, name)}")
    if config.network.is_trained or config.retrain != "none":
        parts.append(f"epochs/{part_key('epochs', trial_id)}")
    parts.append(f"trials/{trial_id}")
    return parts


def sample_set_id(split: str, sample_ids: Sequence[str], sources: int) -> str:
    """Return the name of an ordered list of images that are spread over a number of transfer sources."""
    return f"{split}-{len(sample_ids)}-{key_of('sample_set', ids=list(sample_ids), sources=sources)[: KEY_LENGTH // 4]}"

"""The columns of every table: names, types, keys and versions. Pure data; reading it costs nothing.

`parquet.py` turns these into Arrow schemas. A type is written `float64`, `list<bool>`, `timestamp` (UTC, microseconds); a question mark behind it
says that the value may be missing. Columns are only ever added, with a question mark, and the table's version then rises by one: files written
earlier read as null there, and a program that knows only an older version refuses the newer files instead of dropping columns.
A settings column is null where the setting does not exist (a blur has no codebook).
"""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

STORE_FORMAT = 1  # layout of the results root: folders, manifests, names


@dataclass(frozen=True)
class Table:
    """One table: what identifies a row, how compacted files are sorted, and its columns."""

    version: int
    key: tuple[str, ...]  # a second row with the same values is an error
    sort: tuple[str, ...]  # order of the rows in compacted files, so that a filter skips whole row groups
    columns: dict[str, str]

    def is_nullable(self, column: str) -> bool:
        return self.columns[column].endswith("?")

    def type_of(self, column: str) -> str:
        return self.columns[column].rstrip("?")


def _columns(text: str) -> dict[str, str]:
    """Parse lines of `type: name, name, …` into name -> type, with schema_version at the end of every table."""
    columns: dict[str, str] = {}
    for line in text.strip().splitlines():
        kind, names = line.split(":")
        for name in names.split(","):
            assert name.strip() not in columns, name
            columns[name.strip()] = kind.strip()
    return columns | {"schema_version": "int32"}


TABLES: dict[str, Table] = {
    # A sweep asks for trials; one trial can serve two sweeps, so labels live here.
    # `parts` lists "table/part_key": what must be stored for the trial to be complete.
    # `is_candidate` is false for a variant that was only added to be compared with, and is not chosen.
    "sweeps": Table(
        version=2,
        key=("sweep", "plan_hash", "trial_id", "evaluation_id"),
        sort=("sweep", "trial_id"),
        columns=_columns("""
            string: sweep, plan_hash, trial_id, variant_id, label
            string?: factor, level
            bool: is_reference
            string?: reference_variant_id
            int64: seed
            string: evaluation_id, evaluation, dataset, scale
            float64: score_epsilon
            list<string>: parts
            bool?: is_candidate
        """),
    ),
    # Written last: rows of other tables show once their trial is here. trial_id is the key of the training side, never Ray's or Optuna's id.
    # codebook_sizes: "64,32,16", depth 1 first, where they differ; codebook_size is then null.
    "trials": Table(
        version=3,
        key=("trial_id",),
        sort=("dataset", "variant_id", "seed"),
        columns=_columns("""
            string: trial_id, variant_id, defense, dataset
            int64: seed, target_seed
            string?: model, scale, target
            int64?: codebook_size, depth, code_dim, base_width
            float64?: alpha, beta
            bool?: quantize
            string?: codebook_grad, commitment_gradient, vq_levels, train_input
            int64?: passes
            bool?: revive
            string?: retrain
            int64?: num_epochs, batch_size
            float64?: learning_rate
            string: config
            int64?: parameters
            float64?: reconstruction_mse, psnr, ssim, train_seconds, score_seconds
            string?: device
            int64?: memory_bytes
            string?: git_commit, versions, host
            timestamp?: started, ended
            string?: quantizer, gradient, adversary, purify
            float64?: train_noise, train_epsilon, adversary_epsilon, kl_weight, frequency_weight
            string?: codebook_sizes
        """),
    ),
    # One row per way of scoring on a data set. config: canonical JSON of the whole EvaluationConfig, as `trials` has a trial's.
    "evaluations": Table(
        version=1,
        key=("evaluation_id",),
        sort=("dataset", "name", "evaluation_id"),
        columns=_columns("""
            string: evaluation_id, name, split, dataset, fingerprint, config
        """),
    ),
    # What a search proposed, in order. params, distributions (as Optuna writes them), settings, sampler_state: JSON. The runs before the one at full
    # length are trials of their own: rung_trial_ids, after rung_epochs, scored under rung_evaluation_id.
    "suggestions": Table(
        version=1,
        key=("sweep", "plan_hash", "number"),
        sort=("sweep", "plan_hash", "number"),
        columns=_columns("""
            string: sweep, plan_hash
            int64: number
            string: label, source, params, distributions, settings
            string?: sampler_state, problem, trial_id, evaluation_id
            list<int64>: rung_epochs
            list<string>: rung_trial_ids
            string?: rung_evaluation_id
            string: objectives, constraints, sampler, scheduler
            timestamp: asked
            int64?: member, generation, parent
        """),
    ),
    # Append-only: one row per try, also of tries that failed or were lost. status is in the key: of two sweeps that run one trial at once, one may
    # complete the try that the other has written down as failed, under the same number.
    "attempts": Table(
        version=1,
        key=("trial_id", "evaluation_id", "attempt", "status"),
        sort=("trial_id", "attempt"),
        columns=_columns("""
            string: trial_id, evaluation_id
            int64: attempt
            string: status
            string?: reason, message, log, host
            timestamp?: started, ended
        """),
    ),
    # outcomes: is this image still classified correctly, in the order of the sample set. broken_at: first epsilon of the grid that breaks each image,
    # inf where none does; stored on one row per curve. Accuracy is over all n images.
    "scores": Table(
        version=1,
        key=("trial_id", "evaluation_id", "attack", "epsilon", "threat", "source", "classifier"),
        sort=("threat", "attack", "epsilon", "trial_id"),
        columns=_columns("""
            string: trial_id, evaluation_id, attack
            float64: epsilon
            string: threat, source, classifier, sample_set
            int64: n, correct
            float64: accuracy, ci_low, ci_high
            list<bool>: outcomes
            list<float32>?: broken_at
            int64?: carried_over
            string?: attack_settings, attack_label
            float64?: achieved_epsilon, seconds
            int64?: forwards, backwards
            string?: crafted_on, scored_on
        """),
    ),
    # Of attacks that look for the nearest adversarial image. distances: in `norm`, in the order of the sample set; 0 where an image is wrong
    # unperturbed, infinity where none was found. An accuracy at epsilon is the share of distances above it.
    "distances": Table(
        version=1,
        key=("trial_id", "evaluation_id", "attack", "threat", "source", "classifier"),
        sort=("threat", "attack", "trial_id"),
        columns=_columns("""
            string: trial_id, evaluation_id, attack, threat, source, classifier, norm, sample_set
            int64: n, found
            float64: median
            list<float32>: distances
            string?: attack_settings
            float64?: seconds
            int64?: forwards, backwards
            string?: crafted_on, scored_on
        """),
    ),
    # What a perturbation does inside the purifier, per depth d = 1, 2, …: L1 distances of clean and adversarial latents
    # before and after quantization.
    "latents": Table(
        version=2,
        key=("trial_id", "evaluation_id", "attack", "epsilon", "threat", "source", "depth"),
        sort=("threat", "attack", "epsilon", "depth", "trial_id"),
        columns=_columns("""
            string: trial_id, evaluation_id, attack
            float64: epsilon
            string: threat, source
            int64: depth
            string?: sample_set
            float64?: l1_pre, l1_post, rel_pre, rel_post, index_change, usage, perplexity, quantization_error
            float64?: image_l1, image_l1_clean, psnr, ssim
            float64?: image_l1_shift, input_l1, cosine_pre, std_pre, any_change
        """),
    ),
    # A few images for the eye, as PNG: the same ones under each threat. predicted_*: by the trial's final classifier, from the purified images.
    "strips": Table(
        version=1,
        key=("trial_id", "evaluation_id", "threat", "position"),
        sort=("trial_id", "threat", "position"),
        columns=_columns("""
            string: trial_id, evaluation_id, threat, attack
            float64: epsilon
            int64: position
            string: sample_id
            int64: label, predicted_clean, predicted_adversarial
            binary: clean, adversarial, purified_clean, purified
        """),
    ),
    # commitment, codebook, perplexity: one value per depth, depth 1 first. terms: JSON of the loss terms that only some purifiers have.
    "epochs": Table(
        version=1,
        key=("trial_id", "stage", "epoch"),
        sort=("trial_id", "stage", "epoch"),
        columns=_columns("""
            string: trial_id, stage
            int64: epoch
            float64?: loss, reconstruction
            list<float64>?: commitment, codebook, perplexity
            string?: terms
            float64?: accuracy, learning_rate, seconds
        """),
    ),
    # What a reviewer's checks found out that needs the trained networks; those that the tables answer are computed when read.
    # outcome: `pass`, `warn`, `fail`, `not_run`, `not_applicable`. level: `standard`, or `full` for more queries and draws.
    # Nothing ever wrote version 1, so the key could gain two columns.
    "checks": Table(
        version=2,
        key=("trial_id", "evaluation_id", "check", "level", "probes_version"),
        sort=("trial_id", "check"),
        columns=_columns("""
            string: trial_id, evaluation_id, check, kind, outcome, message
            float64?: value, threshold
            string: level
            int64: probes_version
            float64?: seconds
        """),
    ),
    "samples": Table(
        version=1,
        key=("fingerprint", "sample_id"),
        sort=("dataset", "split", "sample_id"),
        columns=_columns("""
            string: dataset, fingerprint, sample_id
            int64: label
            string: split
        """),
    ),
    # The order of outcome lists. transfer_source: on which of the sources each image is crafted, where a set is spread over several.
    "sample_sets": Table(
        version=1,
        key=("sample_set",),
        sort=("dataset", "sample_set"),
        columns=_columns("""
            string: sample_set, dataset, split
            int64: n
            list<string>: sample_ids
            list<int64>: labels
            list<int8>?: transfer_source
        """),
    ),
    # One row per invocation of `run`, append-only.
    "runs": Table(
        version=1,
        key=("sweep", "plan_hash", "host", "started"),
        sort=("sweep", "started"),
        columns=_columns("""
            string: sweep, plan_hash, dataset, evaluation_id, command
            timestamp: started
            string: host
            int64: trials
            string?: git_commit
        """),
    ),
}

NEEDS_FINISHED_TRIAL = ("scores", "distances", "latents", "strips", "epochs")  # rows show once their trial has a row in `trials`


def find_table(name: str) -> Table:
    """Return a table by its name. Raises ValueError, naming the nearest, if there is none."""
    if name not in TABLES:
        raise ValueError(f"unknown table {name!r}; {_nearest(name, TABLES)}")
    return TABLES[name]


def check_column(table: str, name: str) -> None:
    """Raise ValueError, naming the nearest, if the table has no such column."""
    if name not in TABLES[table].columns:
        raise ValueError(f"unknown column {name!r} of table {table}; {_nearest(name, TABLES[table].columns)}")


def _nearest(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1)
    return f"did you mean {close[0]!r}?" if close else f"known: {', '.join(known)}"

"""The report of a search: what it found and how, the trials that it chose from under attack, and the checks on all of them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from sweeper.report import parameter_charts, search_charts
from sweeper.report.charts import Chart
from sweeper.report.checklist import checks, may_be_said, told
from sweeper.report.content import Cell, Item, Report, Section, Table
from sweeper.report.curves import Sheet, adaptive_figure, half_figure
from sweeper.report.latent_figures import codebook_table
from sweeper.report.naming import dataset_name, labelled
from sweeper.report.search_numbers import UNITS, scale, standing
from sweeper.report.strips import strips
from sweeper.report.summary import GUIDE, facts, num_images, statement
from sweeper.report.training_curves import figures, perplexity_figure
from sweeper.report.trials import Material
from sweeper.results import Results
from sweeper.search.outcome import Outcome, named, outcome, searched, tally, words
from sweeper.search.stored import StoredSearch, StoredTrial, read_search

MOST = 6  # trials of the Pareto set whose curves and images are shown, beside the reference
NOT_HERE = (
    "Left out of a search's report: Table 1, Figures 2 to 6 and the paper's claims, which compare named systems over seeds on the test images, while "
    "a search has trials of one seed each, scored on the validation images. `run paper` and `report paper` have them."
)


def search_report(results: Results, material: Material) -> Report:
    """Return the report of a search, whatever became of its trials; where it cannot be read, the section Search says why.

    Args:
        material: Its plan, with all completed trials.
    """
    try:
        search, problem = read_search(results, material.sweep, material.dataset, material.plan_hash), ""
    except ValueError as error:
        search, problem = None, str(error)
    everyone = (material, labelled(material))
    sections = [_summary(everyone, search)]
    if search is None:
        sections.append(Section("search", "Search", (f"The search cannot be read from the tables: {problem}.",), ()))
    else:
        found = outcome(results, search)
        sections.append(_search(search, found, images(material)))
        sections += _chosen(results, material, search)
    sections.append(Section("checks", "Checks", (told(everyone),), (checks(everyone), may_be_said(everyone))))
    return Report(
        f"{material.sweep}, a search on {dataset_name(material)}, scale {material.scale}",
        statement(material),
        (*facts(material, str(results.root)), *(_asked(search) if search else ())),
        tuple(sections),
        _warnings(material, search),
    )


def images(material: Material) -> str:
    """Return the images that figures are on: `260 validation images (240 of them under the adaptive attacks)`."""
    adaptive = {len(trial.adaptive_broken_at) for trial in material.trials if trial.adaptive_broken_at is not None}
    count = num_images(material)
    fewer = f" ({'/'.join(map(str, sorted(adaptive)))} of them under the adaptive attacks)" if adaptive and adaptive != {count} else ""
    return f"{count:,} {material.split} images{fewer}" if count else f"{material.split} images"


def _summary(everyone: Sheet, search: StoredSearch | None) -> Section:
    text = [
        statement(everyone[0]),
        *([tally(search)] if search else []),
        told(everyone),
        *GUIDE[:2],
        NOT_HERE,
    ]  # it has no controls, of which the third speaks
    return Section("summary", "Summary", tuple(text), ())


def _search(search: StoredSearch, found: Outcome, on: str) -> Section:
    made = [
        search_charts.history(search, on),
        search_charts.front(search, found.rows, on),
        parameter_charts.importances(search, on),
        parameter_charts.slices(search, on),
        parameter_charts.parallel(search, on),
    ]
    text = [found.notes[0], search_charts.NOT_RANDOM]
    if not found.rows:
        text += found.notes[1:2]
    text += dict.fromkeys(one for one in made if isinstance(one, str))
    items: list[Item] = [_front_table(search, found, on)] if found.rows else []
    items += [one for one in made if isinstance(one, Chart)]
    return Section("search", "Search", tuple(text), (*items, _trials_table(search, on)))


def _front_table(search: StoredSearch, found: Outcome, on: str) -> Table:
    """Return the Pareto set with its figures on both splits, their differences, and what was searched."""
    rows = []
    for one in found.rows:
        row: dict[str, Cell] = {"trial": named(one), "trial_id": one["trial_id"][:8], "settings": words(one["searched"])}
        for column in found.columns:
            for split in ("validation", "test"):
                bounds = {f"{split}_{column}_{end}": one[f"{split}_{column}_ci_{end}"] for end in ("low", "high")}
                row |= {f"{split}_{column}": one[f"{split}_{column}"], **bounds}
            row[f"difference_{column}"] = one[f"difference_{column}"]
        rows.append(row)
    measured = [f"{split}_{column}" for column in found.columns for split in ("validation", "test", "difference")]
    formats = {name: _format(name.partition("_")[2], name.startswith("difference")) for name in measured}
    headings = {name: f"{name.partition('_')[2]}, {name.partition('_')[0]}" for name in measured}
    several = len(search.objectives) > 1
    title = "The Pareto set" if several else f"The best {found.columns[0]}"
    what = "Trials that may be chosen and that no other beats in all objectives" if several else "The best trial that may be chosen"
    caption = f"{what}. Validation: {on}, which the sampler saw. Test: the test images. Difference: validation minus test."
    columns = ("trial", "trial_id", *measured, "settings")
    return Table("search_pareto", title, caption, columns, tuple(rows), headings | {"trial_id": "id"}, formats, tuple(found.notes[1:]))


def _trials_table(search: StoredSearch, on: str) -> Table:
    """Return every trial that was proposed: what became of it, its figures, and what it reached at rungs."""
    columns = list(dict.fromkeys(one.column for one in (*search.objectives, *search.constraints)))
    rows = []
    for trial in search.trials:
        row: dict[str, Cell] = {"trial": trial.label, "trial_id": trial.key[0][:8] if trial.key else None, "became": _became(search, trial)}
        for column in columns:
            figures = trial.figures or {}
            low, high = figures.get(f"_{column}_ci") or (None, None)
            row |= {column: figures.get(column), f"{column}_low": low, f"{column}_high": high}
        at_rungs = [f"{epochs} epoch{'s' * (epochs > 1)}: {_reached(search, found)}" for epochs, found in sorted(trial.rungs.items())]
        rows.append(row | {"rungs": "; ".join(at_rungs), "settings": words(searched(trial))})
    caption = (
        f"In the order of proposing. Figures are at full length, on {on}; an interval is over images. At rungs: another quantity, after fewer epochs "
        "and under the quick evaluation; compare it among trials at the same rung."
    )
    headings = {"trial_id": "id", "became": "what became of it", "rungs": "at rungs"} | {column: column for column in columns}
    formats = {column: _format(column) for column in columns}
    shown = ["trial", "trial_id", "became", *columns, *(["rungs"] if any(row["rungs"] for row in rows) else []), "settings"]
    return Table("search_trials", "Every trial", caption, tuple(shown), tuple(rows), headings, formats)


def _became(search: StoredSearch, trial: StoredTrial) -> str:
    """Return `completed`, `completed, breaks a constraint`, `stopped`, `failed: loss is nan`, `not finished`."""
    if trial.state == "completed":
        what = "no figure for an objective" if search.values(trial) is None else standing(search, trial)
        checks = f" ({', '.join(trial.failed_checks)})" if trial.failed_checks else ""
        return f"completed, {what}{checks}"
    return {"missing": "not finished"}.get(trial.state, trial.state) + (f": {trial.message}" if trial.message else "")


def _reached(search: StoredSearch, figures: object) -> str:
    assert isinstance(figures, dict)
    values = [(one.column, figures.get(one.column)) for one in search.objectives]
    return ", ".join(f"{column} {scale(column) * value:.3g}" for column, value in values if value is not None)


def _format(column: str, is_difference: bool = False) -> str:
    if column in UNITS:
        return "number"
    return "points" if is_difference or column == "clean_drop" else "percent"


def _chosen(results: Results, material: Material, search: StoredSearch) -> list[Section]:
    """Return what else the tables have of the Pareto set and the reference: curves under attack, codebooks, training, images."""
    front = [trial.key for trial in search.pareto()][:MOST]
    names = {key[0] for key in front if key} | {one.key[0] for one in search.trials if one.label == "reference" and one.key}
    chosen = replace(material, variants=tuple(one for one in material.variants if any(trial.trial_id in names for trial in one.trials)))
    systems = labelled(chosen)
    if not systems.all:
        return [Section("chosen", "The chosen trials", ("No trial is completed that could be chosen, so there are no curves and no images.",), ())]
    sheet, drawn = [(chosen, systems)], [systems.all]
    rest = len(search.pareto()) - len(front)
    text = "The Pareto set, best in the first objective first, and the reference where it is completed"
    text += f"; {rest} more of the set are left out of these figures. " if rest else ". "
    text += "Gray-box and transfer figures say little of a defense; the adaptive attacker's do."
    under = "the Pareto set and the reference, validation images"
    attacked: tuple[Item, ...] = (
        adaptive_figure(sheet, drawn, "adaptive", f"The adaptive attacker ({under})"),
        half_figure(sheet, drawn, "graybox", "graybox", f"Gray-box attacks ({under})"),
        half_figure(sheet, drawn, "transfer", "transfer", f"Transfer attacks ({under})"),
    )
    codes = [system for system in systems.all if system.kind == "vqunet"]
    trained = figures([("", "the Pareto set and the reference", systems.all)])
    inside: tuple[Item, ...] = (codebook_table(systems), perplexity_figure(codes), *trained)
    return [
        Section("chosen", "The chosen trials under attack", (text,), attacked),
        Section("training", "Codebooks and training of the chosen trials", (), inside),
        Section("images", "Images", (), (strips(results, chosen, systems),)),
    ]


def _asked(search: StoredSearch) -> tuple[tuple[str, str], ...]:
    """Return name and value of what was searched for, and how."""
    return (
        ("objectives", ", ".join(f"{one.column} ({one.direction})" for one in search.objectives)),
        ("constraints", ", ".join(map(str, search.constraints)) or "none"),
        ("sampler", search.sampler),
        ("scheduler", search.scheduler),
    )


def _warnings(material: Material, search: StoredSearch | None) -> tuple[str, ...]:
    """Return what is missing or weaker than it looks, the gravest first."""
    found = []
    trials = search.trials if search else ()
    for state, ends in (("failed", ""), ("missing", "; the same `run` goes on with them")):
        named = [one.label + (f" ({one.message})" if one.message else "") for one in trials if one.state == state]
        if named:
            found.append(f"{len(named)} of {len(trials)} trials {'are not finished' if state == 'missing' else 'failed'}{ends}: {_listed(named)}.")
    found.append(
        "The sampler saw the validation images, so figures on them flatter what it chose: report the test figures of the Pareto set. Every other "
        "figure here is on the validation images."
    )
    if failing := Counter(check for trial in trials if trial.state == "completed" for check in trial.failed_checks):
        who = [trial.label for trial in trials if trial.state == "completed" and trial.failed_checks]
        found.append(f"A validity check fails ({', '.join(failing)}), so these are not chosen and their figures not to be believed: {_listed(who)}.")
    if any(variant.trials for variant in material.variants):
        found.append("One seed per trial, so nothing is tested between settings; `refine` runs the best with more.")
    return (*found, *(f"Left out: {problem}" for problem in material.skipped))


def _listed(names: Sequence[str]) -> str:
    return "; ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

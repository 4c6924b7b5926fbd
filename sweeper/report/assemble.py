"""A report from the tables alone: read a plan, and put figures, tables and claims in order. No torch, no Ray, no rerun."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

from sweeper.report.checklist import checks, may_be_said, told
from sweeper.report.claims import claims, subject
from sweeper.report.content import Item, Report, Section
from sweeper.report.curves import Sheet, adaptive_figure, figure2, groups, half_figure
from sweeper.report.latent_figures import codebook_table, figure3, figure4, figure5, figure6, pairs
from sweeper.report.naming import Systems, dataset_name, systems_of
from sweeper.report.rows import load, read
from sweeper.report.strips import strips
from sweeper.report.summary import GUIDE, facts, not_of_the_paper, statement, warnings
from sweeper.report.table1 import tables
from sweeper.report.training_curves import figures, loss_weights_figure, perplexity_figure, weight_variants
from sweeper.report.trials import Material
from sweeper.results import Results
from sweeper.stored_plans import is_search


def build(results: Results, sweep: str, dataset: str | None = None, plan_hash: str | None = None) -> Report:
    """Return the report of the plan that was run last under that name (on that data set), or of the plan named.

    The same sweep on other data sets under this root joins Table 1, Figure 2 and the claims; a sweep `loss_weights` on the same data set answers
    the claim about alpha and beta. A search has a report of its own (`search_report.py`).

    Raises:
        ValueError: If there is no such plan; the message lists the sweeps there are.
    """
    material = load(results, sweep, dataset, plan_hash)
    if is_search(results, material.plan_hash):
        from sweeper.report.search_report import search_report  # with it comes optuna

        return search_report(results, material)
    sheet = (material, systems_of(material))
    others = [(other, systems_of(other)) for other in _elsewhere(results, material)]
    weights = material if weight_variants(material) else _weights(results, material.dataset)
    sections = [_summary(sheet), _table1(sheet, others), _figure2(sheet, others), _latents(sheet[1]), _codebooks(sheet[1]), _training(sheet, weights)]
    sections += [Section("images", "Images", (), (strips(results, material, sheet[1]),)), _checks(sheet, others), _claims(sheet, others, weights)]
    title = f"{material.sweep} on {dataset_name(material)}, scale {material.scale}"
    warned = [(f"{dataset_name(other)}: " if other is not material else "", warnings(other, systems)) for other, systems in (sheet, *others)]
    return Report(
        title,
        statement(material),
        facts(material, str(results.root)),
        tuple(sections),
        tuple(name + words for name, found in warned for words in found),
    )


def _elsewhere(results: Results, material: Material) -> list[Material]:
    """Return the same sweep on other data sets, those with a completed trial."""
    names = {run["dataset"] for run in read(results, "runs", ["sweep", "dataset"]) if run["sweep"] == material.sweep}
    found = [load(results, material.sweep, name) for name in sorted(names - {material.dataset})]
    return [other for other in found if other.trials and other.evaluation != "quick"]


def _weights(results: Results, dataset: str) -> Material | None:
    runs = read(results, "runs", ["sweep", "dataset"])
    return load(results, "loss_weights", dataset) if {"sweep": "loss_weights", "dataset": dataset} in runs else None


def _summary(sheet: Sheet) -> Section:
    reason = not_of_the_paper(*sheet)
    return Section("summary", "Summary", (statement(sheet[0]), told(sheet), *GUIDE, *([reason] if reason else [])), ())


def _table1(sheet: Sheet, others: Sequence[Sheet]) -> Section:
    items: list[Item] = list(tables(sheet))
    for other in others:
        items += [replace(table, statement=statement(other[0])) for table in tables(other, f"_{other[0].dataset}")]
    text = (
        "Clean accuracy before and after filtering, as the paper's Table 1, beside what attackers leave: a defense that costs little on clean images "
        "and keeps nothing under attack is cheap to build.",
    )
    return Section("table-1", "Table 1: clean accuracy", text + _reason(sheet), tuple(items))


def _figure2(sheet: Sheet, others: Sequence[Sheet]) -> Section:
    sheets = [sheet, *others]
    sets = [{suffix: (words, members) for suffix, words, members in groups(systems)} for _, systems in sheets]
    items: list[Item] = []
    for suffix, (words, _) in sets[0].items():
        used = [(one, found[suffix][1]) for one, found in zip(sheets, sets, strict=True) if suffix in found and found[suffix][0] == words]
        mine, chosen = [one for one, _ in used], [members for _, members in used]
        items.append(figure2(mine, chosen, f"figure2{suffix}", f"Figure 2: accuracy under attack, pooled as in the paper ({words})"))
        items.append(half_figure(mine, chosen, "graybox", f"graybox{suffix}", f"Gray-box half of Figure 2, all images ({words})"))
        items.append(half_figure(mine, chosen, "transfer", f"transfer{suffix}", f"Transfer half of Figure 2, all images ({words})"))
        items.append(adaptive_figure(mine, chosen, f"adaptive{suffix}", f"The adaptive attacker ({words})"))
        if len(mine) > 1:
            both = " ".join(statement(material) for material, _ in mine)
            items[-4:] = [replace(item, statement=both) for item in items[-4:]]
    text = _reason(sheet)
    if sheet[1].is_paper and not others:
        text = ("The paper's Figure 2 has eight panels, two data sets by four attacks; this root has the sweep on one data set.",)
    return Section("figure-2", "Figure 2: accuracy under attack", text, tuple(items))


def _latents(systems: Systems) -> Section:
    compared = pairs(systems)
    items: list[Item] = [figure3(systems)]
    items += [figure4(pair, f"_{index}" if index > 1 else "") for index, pair in enumerate(compared, 1)]
    vq = compared[0].vq if compared else subject(systems)
    if vq is not None:
        items += [figure5(vq), figure6(vq)]
    text = ("Under FGSM crafted on the target without the purifier (paper, section 4.4), over the gray-box images.",)
    if vq is None:
        text += ("There is no completed VQUNet, so Figures 5 and 6 are missing.",)
    return Section("figures-3-to-6", "Figures 3 to 6: inside the purifier", text, tuple(items))


def _codebooks(systems: Systems) -> Section:
    with_codes = [system for system in systems.all if system.kind == "vqunet"]
    text = ("A codebook that has collapsed explains stable indices, small distances after quantization, and coarse reconstructions.",)
    return Section("codebooks", "Codebook usage", text, (codebook_table(systems), perplexity_figure(with_codes)))


def _training(sheet: Sheet, weights: Material | None) -> Section:
    items: list[Item] = list(figures(groups(sheet[1])))
    if weights is not None and weight_variants(weights):
        items.append(loss_weights_figure(weights))
    text = () if items else ("No completed trial has epochs.",)
    return Section("training", "Training", text, tuple(items))


def _checks(sheet: Sheet, others: Sequence[Sheet]) -> Section:
    items: list[Item] = [checks(sheet), may_be_said(sheet)]
    text = [told(sheet)]
    for other in others:
        suffix, words = f"_{other[0].dataset}", statement(other[0])
        items += [replace(checks(other, suffix), statement=words), replace(may_be_said(other, suffix), statement=words)]
        text.append(f"{dataset_name(other[0])}: {told(other)}")
    return Section("checks", "Checks", tuple(text), tuple(items))


def _claims(sheet: Sheet, others: Iterable[Sheet], weights: Material | None) -> Section:
    rest = list(others)
    elsewhere = [replace(claims(other, None, [sheet], f"_{other[0].dataset}"), statement=statement(other[0])) for other in rest]
    items = [claims(sheet, weights, rest), *elsewhere]
    return Section("claims", "The paper's claims", (), tuple(items))


def _reason(sheet: Sheet) -> tuple[str, ...]:
    reason = not_of_the_paper(*sheet)
    return (reason,) if reason else ()

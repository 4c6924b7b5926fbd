"""Every check by its number: what it asks, what a failure means, on whose word, and what it needs where the tables do not answer it."""

from sweeper.checks._result import Check, Kind

CARLINI = "Carlini et al., 2019, On evaluating adversarial robustness (arXiv:1902.06705)"
ATHALYE = "Athalye et al., 2018, Obfuscated gradients (arXiv:1802.00420)"
TRAMER = "Tramer et al., 2020, On adaptive attacks (arXiv:2002.08347)"
INDICATORS = "Pintor et al., 2022, Indicators of attack failure (arXiv:2106.09947)"
AUTOATTACK = "Croce and Hein, 2020, AutoAttack's flags (arXiv:2003.01690)"
ROBUSTBENCH = "Croce et al., 2021, RobustBench (arXiv:2010.09670)"
ZIMMERMANN = "Zimmermann et al., 2022, Increasing confidence in adversarial robustness evaluations (arXiv:2206.13991)"

_DEFENSE = "needs a probe of the trained defense, which `run` makes of every trial unless it is quick"
_ATTACK = "needs another attack on the trained defense, which `run` makes of the reference and the best row; `check SPACE --run all` of every trial"
_MORE = "needs another attack on the trained defense: `check SPACE --run best --level full`, or --evaluation full"


def _checks(kind: Kind, *rows: tuple[str, str, str, str]) -> dict[str, Check]:
    return {name: Check(name, title, kind, citation, needs) for name, title, citation, needs in rows}


_ALL: dict[str, Check] = {
    **_checks(
        "validity",
        ("C1", "Every perturbation stays within epsilon", INDICATORS, ""),
        ("C2", "The model is the same before and after each attack, every part in eval mode", CARLINI, _DEFENSE),
        ("C3", "Another batch size and order give the same decisions", CARLINI, _DEFENSE),
        ("C4", "Clean accuracy is the same in the attack's path and the plain one", CARLINI, _DEFENSE),
        ("C5", "The defense returns logits, not probabilities", AUTOATTACK, _DEFENSE),
        ("C6", "All compared trials are attacked on the same images, none left out", CARLINI, ""),
        ("C8", "The gray-box attacks break the undefended target", CARLINI, ""),
        ("C9", "Accuracy does not rise with epsilon", CARLINI, ""),
        ("C10", "An unbounded attack leaves nothing", ATHALYE, _DEFENSE),
        ("C11", "Iterative attacks are no weaker than one step", ATHALYE, ""),
        ("C12", "The attack's steps can reach the ball's surface", INDICATORS, ""),
        ("C13", "Twice the steps change less than a point", INDICATORS, _ATTACK),
        ("C16", "Random noise breaks fewer images than the attack", ATHALYE, _ATTACK),
        ("C17", "An attack without gradients is no stronger", ATHALYE, _ATTACK),
        ("C18", "The adaptive attack is no weaker than gray-box and transfer", TRAMER, ""),
        ("C20", "The input gradient is neither zero nor NaN", INDICATORS, _DEFENSE),
        ("C21", "A gradient reaches the input, and the purifier changes it", ATHALYE, _DEFENSE),
        ("C24", "A random defense is attacked through its expectation", AUTOATTACK, _DEFENSE),
    ),
    **_checks(
        "claim",
        ("C26", "Every adaptive variant is in the grid, so the word robust may be used", TRAMER, ""),
        ("C27", "It beats every control", CARLINI, ""),
        ("C29", "Clean accuracy drops by less than a point", CARLINI, ""),
        ("C33", "Seeds and images suffice for a headline", ROBUSTBENCH, ""),
        ("C34", "Nothing is selected on the test images", CARLINI, ""),
    ),
    **_checks(
        "advice",
        ("C7", "Stored perturbations still break what they broke", CARLINI, _MORE),
        ("C14", "The step size is the strongest of several", CARLINI, _MORE),
        ("C15", "The best iterate counts, not the last", INDICATORS, _MORE),
        ("C19", "Confident transfer images are no stronger", CARLINI, _MORE),
        ("C22", "The gradient agrees with finite differences", TRAMER, _DEFENSE),
        ("C23", "The loss is smooth at the scale of one step", INDICATORS, _DEFENSE),
        ("C25", "The logits are not so large that cross-entropy is flat", AUTOATTACK, _DEFENSE),
        ("C28", "Gray-box and transfer are reported apart, on all images", CARLINI, ""),
        ("C30", "The purifier's output depends on its input", TRAMER, ""),
        ("C31", "Attacks on the codes are no stronger", TRAMER, _MORE),
        ("C32", "An attack on this purifier transfers to its other seeds", ATHALYE, _MORE),
        ("C35", "Settings, versions, device and cost are stored", ROBUSTBENCH, ""),
        ("C36", "The evaluator itself is tested on planted defenses", ZIMMERMANN, ""),
    ),
}
CHECKS: dict[str, Check] = dict(sorted(_ALL.items(), key=lambda item: int(item[0][1:])))

"""A report with one of everything, made up: labels that are markup, gaps, a panel without numbers, twelve systems, a table wider than a phone."""

import io
from dataclasses import replace

from PIL import Image

from sweeper.report.content import Checked, Checks, Claim, Claims, Figure, Panel, Picture, Report, Section, Series, Strip, Strips, Table

NASTY = "a_b & <b>{c}</b> $x_1$ 5 % \\ #~^"
STATEMENT = "Made up numbers of the data set <digits> at scale small; nothing here was measured."
SYSTEMS = ("VQUNet", "non-VQUNet", NASTY, "_hidden", "Defense_VAE", "HFL_VAE", "Cycle_GAN", "identity", "JPEG", "APE-GAN", "ComDefend", "undefended")
EPSILONS = (0.0, 0.02, 0.05, 0.1)


def png(shade: int, size: tuple[int, int] = (32, 32)) -> bytes:
    file = io.BytesIO()
    Image.new("L", size, shade).save(file, "PNG")
    return file.getvalue()


def curve(index: int, *, stress: bool = False) -> Series:
    y = tuple(97.5 - 3 * index - 400 * epsilon for epsilon in EPSILONS)
    low, high = tuple(value - 2.25 for value in y), tuple(value + 1.5 for value in y)
    return Series(SYSTEMS[index], EPSILONS, y, low, high, points=(low, high), stress=stress)


def accuracy(title: str, systems: int, *, stress: bool = False) -> Panel:
    series = tuple(curve(index, stress=stress and index == 0) for index in range(systems))
    return Panel(title, "epsilon (of the pixel range)", "accuracy (%)", series, y_range=(0, 100))


def figures() -> tuple[Figure, ...]:
    titles = ("FGSM, gray-box", "PGD, gray-box", "CW, gray-box", "adaptive PGD", "FGSM, transfer", "BIM, transfer", "PGD, transfer")
    missing = Panel("CW, transfer", "epsilon", "accuracy (%)", (), missing="CW was not run <here>.")
    eight = (*(accuracy(title, 6, stress=title == "adaptive PGD") for title in titles), missing)
    epochs = tuple(float(epoch) for epoch in range(1, 46))
    losses = tuple(
        Series(name, epochs, tuple(None if epoch % 9 == 0 else (1 + index) / epoch for epoch in epochs)) for index, name in enumerate(SYSTEMS)
    )
    usage = Series("VQUNet", (1.0, 2.0, 3.0), (12.0, None, 100.0))
    training = (Panel("loss", "epoch", "reconstruction (mean squared error)", losses, y_log=True), Panel("usage", "depth", "codes", (usage,)))
    return (
        Figure("figure2", f"Figure 2 of {NASTY}", "Eight panels; an interval is the 95 % t interval over 3 seeds.", eight),
        Figure("training", "Training curves", "One seed.", training, columns=2),
        Figure("figure3", "Figure 3", "", (accuracy("depth 1", 2),)),
    )


def table() -> Table:
    first = {"system": "VQUNet", "printed": 0.9308, "after": 0.9375, "after_low": 0.92, "after_high": 0.9512, "loss": -0.0095, "parameters": 1234567}
    second = {"system": NASTY, "printed": None, "after": 0.5, "loss": 0.00004, "error": 0.00123456, "revived": True}
    headings = {"printed": "printed in the paper, before", "loss": "loss <clean>"}
    formats = {"printed": "percent", "after": "percent", "loss": "points", "parameters": "integer", "error": "number"}
    columns = ("system", "printed", "after", "loss", "parameters", "error", "revived", "remark")
    remarks = ({**first, "remark": "[a] remark that takes more room than a phone has"}, second)
    return Table("table1", "Table 1", f"Caption of {NASTY}.", columns, remarks, headings, formats, ("A note <below>.",))


def claims() -> Claims:
    said = (
        Claim("Accuracy falls below 10 % without a defense.", "4.3", "fails", "83.4 % [79.9, 86.5] on 500 images", "holds above 0.05"),
        Claim("Less than 1 % is lost.", "4.2", "holds", "-0.72 points", allowed=False, checks="C33 fails for VQUNet: 1 of at least 3 seeds"),
        Claim(f"As {NASTY}.", "4.4", "not tested", "", "Fashion-MNIST was not run."),
    )
    return Claims("claims", "The paper's claims", "One by one.", said)


def checks() -> Checks:
    source = "Somebody et al., 2022, A title that is long enough to take more than one line of the page (arXiv:2106.09947)"
    failed = Checked(
        "fail", "validity", "C13", "Twice the steps change less", source, (0.031, 0.2), (0.01,), f"{NASTY}, seeds 0, 1", "3.1 <points> more"
    )
    spared = Checked("not applicable", "claim", "C26", "Every variant is there", source, (), (), "all trials", "nothing to attack")
    rows = (failed, replace(failed, outcome="not run", values=(), thresholds=(), trials="all trials"))
    return Checks(
        "checks", "A reviewer's checks", "Worst first.", rows, (spared, replace(spared, outcome="pass")), ({"check": "C13", "value": 0.031},)
    )


def report() -> Report:
    rows = tuple((word, tuple(Picture(png(shade), note=f"{shade} → 3") for shade in (10, 90, 200))) for word in ("clean", "adversarial", "purified"))
    strips = Strips("strips", "Images", "Three test images.", (Strip("VQUNet", rows, "PGD at 0.1."), Strip(NASTY, rows)))
    figure2, training, figure3 = figures()
    sections = (
        Section("table-1", "Table 1: clean accuracy", ("Text <i>before</i>.",), (table(),)),
        Section("figure-2", "Figure 2", (), (figure2, figure3)),
        Section("training", "Training", (), (training,)),
        Section("images", "Images", (), (strips,)),
        Section("checks", "Checks", (), (checks(),)),
        Section("claims", "Claims", (), (claims(),)),
    )
    facts = (("data set", "digits"), ("seeds", "0, 1, 2"), ("made from", "plan " + "8f3a" * 16))
    return Report(f"Report of {NASTY}", STATEMENT, facts, sections, warnings=("1 of 9 trials <failed>.", "One seed only."))

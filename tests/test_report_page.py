"""The page of a report says what the report holds: its numbers, escaped, without an address; its files read back."""

import csv
import html
import io
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import pytest
from PIL import Image
from small_report import EPSILONS, NASTY, STATEMENT, SYSTEMS, accuracy, claims, curve, figures, png, report, table

from sweeper.report import cells, drawing
from sweeper.report.content import Figure, Item, Panel, Picture, Report, Section, Series, Strip, Strips
from sweeper.report.export import escape, export, latex, write_whole
from sweeper.report.page import render

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """What a page holds: tables as rows of cell texts, the text of each kind of element, ids; elements must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))
        self.texts.setdefault(tag, []).append("")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("th", "td"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        for tag in set(self.open):
            self.texts[tag][-1] += data
        if {"th", "td"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\u00a0", " ")  # an interval is not broken between its bounds

    def of(self, name: str) -> list[str]:
        """Return every value of an attribute."""
        return [values[name] or "" for _, values in self.attributes if name in values]


@pytest.fixture(scope="module")
def text() -> str:
    return render(report())


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def with_item(item: Item) -> Report:
    return Report("Title", STATEMENT, (), (Section("one", "One", (), (item,)),))


# The page


def test_the_same_report_gives_the_same_bytes(text: str) -> None:
    assert render(report()) == text


def test_nobodys_own_matplotlib_settings_change_a_figure() -> None:
    def drawn() -> str:
        return drawing.panel_svg(accuracy("p", 2), {name: drawing.style(0) for name in SYSTEMS}, unique="a")

    expected = drawn()
    with matplotlib.rc_context({"lines.linewidth": 9, "axes.grid": False, "svg.fonttype": "path", "font.size": 30}):
        assert drawn() == expected
        assert matplotlib.rcParams["lines.linewidth"] == 9


def test_a_page_refers_to_nothing_outside_itself(text: str, page: Page) -> None:
    assert not re.search(r"https?:|//[a-z]|@import|xmlns|<script", text)
    inside = [address for name in ("href", "src") for address in page.of(name)]
    assert inside and all(address.startswith(("#", "data:")) for address in inside)
    styles = "".join(page.texts["style"] + page.of("style"))
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", styles + "".join(page.of("clip-path"))))


def test_ids_are_distinct_and_every_reference_finds_its_own(page: Page) -> None:
    ids = page.of("id")
    assert len(ids) == len(set(ids))
    wanted = {address[1:] for address in page.of("href") if address.startswith("#")} | set(page.of("aria-labelledby"))
    wanted |= {address[5:-1] for address in page.of("clip-path")}
    assert wanted <= set(ids)


def test_two_items_of_one_name_have_anchors_and_files_of_their_own(tmp_path: Path) -> None:
    twice = Report("Title", STATEMENT, (), (Section("table1", "One", (), (table(), table())),))
    ids = Page(render(twice)).of("id")
    assert len(ids) == len(set(ids)) and {"table1", "table1.2", "table1.3"} <= set(ids)
    assert {path.name for path in export(twice, tmp_path, b"")} >= {"table1.csv", "table1-2.csv", "table1.tex", "table1-2.tex"}


def test_markup_in_a_label_is_shown_and_never_taken_for_markup(text: str, page: Page) -> None:
    assert "<b>" not in text and "<i>" not in text and "<here>" not in text and "<digits>" not in text
    assert page.texts["title"] == [f"Report of {NASTY}"]
    assert any(NASTY in heading for heading in page.texts["h3"])
    assert NASTY in page.texts["h4"]
    assert any(row[0] == NASTY for rows in page.tables for row in rows)
    assert any(NASTY in label for label in page.of("aria-label"))
    drawn = drawing.panel_svg(Panel(NASTY, NASTY, NASTY, (curve(2),)), {NASTY: drawing.style(0)}, unique="a")
    assert " ".join(html.unescape(line) for line in re.findall(r"<text[^>]*>(.*?)</text>", drawn)).count("<b>{c}</b> $x_1$") == 3


def test_the_warnings_come_first_and_the_statement_stands_under_everything(text: str, page: Page) -> None:
    assert page.texts["h1"] == [f"Report of {NASTY}"]
    assert page.texts["h2"][:2] == ["Warnings", "Contents"]
    assert text.index("One seed only.") < text.index("<dt>")
    items = [text[start.start() : text.index("</figure>", start.start())] for start in re.finditer(r'<figure class="item', text)]
    assert len(items) == len(report().items()) == 7
    assert all(html.escape(STATEMENT) in item for item in items)
    assert text.index(html.escape(STATEMENT)) < text.index("<nav")


def test_the_contents_name_every_section(page: Page) -> None:
    assert [heading for heading in page.texts["h2"][2:]] == [section.title for section in report().sections]
    links = [text for text in page.texts["a"]]
    assert set(page.texts["h2"][2:]) <= set(links)


def test_headings_go_down_one_level_at_a_time(page: Page) -> None:
    levels = [int(tag[1]) for tag, _ in page.attributes if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(below - above <= 1 for above, below in zip(levels, levels[1:], strict=False))


def test_every_header_cell_has_a_scope_and_every_picture_words(page: Page) -> None:
    assert all(values.get("scope") in ("row", "col") for tag, values in page.attributes if tag == "th")
    pictures = [values for tag, values in page.attributes if tag == "img"]
    assert len(pictures) == 18
    assert pictures[0] == {"src": pictures[0]["src"], "width": "96", "height": "96", "alt": "VQUNet, clean, image 1: 10 → 3"}
    described = [values["aria-label"] or "" for _, values in page.attributes if values.get("role") == "img"]
    assert len(described) == 7 + 2 + 1
    assert described[0] == (
        f"Figure 2 of {NASTY}, FGSM, gray-box: accuracy (%) over epsilon (of the pixel range) of {', '.join(SYSTEMS[:6])}. "
        "The numbers stand below the figure."
    )


def test_small_pictures_are_scaled_by_a_whole_factor_and_large_ones_stay() -> None:
    pictures = tuple(Picture(png(0, size)) for size in ((28, 28), (64, 48), (224, 200)))
    text = render(with_item(Strips("s", "S", "", (Strip("system", (("clean", pictures),)),))))
    sizes = [(values["width"], values["height"]) for tag, values in Page(text).attributes if tag == "img"]
    assert sizes == [("84", "84"), ("128", "96"), ("224", "200")]


def test_a_verdict_is_a_word(page: Page) -> None:
    (rows,) = (rows for rows in page.tables if rows[0][:3] == ["claim", "where", "verdict"])
    assert [row[2] for row in rows[1:]] == ["fails", "holds may not be said", "not tested"]
    assert "83.4 % [79.9, 86.5] on 500 images" in rows[1][3] and "holds above 0.05" in rows[1][3]


def test_a_panel_without_numbers_says_why(page: Page) -> None:
    assert any("CW was not run <here>." in text for text in page.texts["p"])
    unsaid = Panel("empty", "x", "y", (Series("a", (1.0,), (None,)),))
    assert "Nothing was measured." in render(with_item(Figure("f", "F", "", (unsaid,))))


def test_a_report_of_nothing_is_still_a_page() -> None:
    assert Page(render(Report("Title", STATEMENT, (), ()))).texts["h2"] == ["Contents"]


# Tables


def test_a_table_is_shown_in_the_formats_it_names(page: Page) -> None:
    (rows,) = (rows for rows in page.tables if rows[0][0] == "system")
    assert rows[0] == ["system", "printed in the paper, before (%)", "after (%)", "loss <clean> (points)", "parameters", "error", "revived", "remark"]
    assert rows[1] == ["VQUNet", "93.1", "93.8 [92.0, 95.1]", "-0.95", "1,234,567", "", "", "[a] remark that takes more room than a phone has"]
    assert rows[2] == [NASTY, "", "50.0", "0.00", "", "0.001235", "yes", ""]


@pytest.mark.parametrize(
    ("value", "format", "text"),
    [
        (0.0095, "points", "+0.95"),
        (-0.00001, "points", "0.00"),
        (1.0, "percent", "100.0"),
        ("missing", "percent", "missing"),
        (123456.0, "number", "1.235e+05"),
        (3, "integer", "3"),
        (None, "percent", ""),
        (0.0009765625, "", "0.0009766"),
    ],
)
def test_a_value_is_printed_as_its_format_says(value: float | str | None, format: str, text: str) -> None:
    assert cells.formatted(value, format) == text


def test_a_format_that_there_is_not_is_named() -> None:
    with pytest.raises(ValueError, match="percent, points, number, integer or text, got 'percents'"):
        render(with_item(replace(table(), formats={"after": "percents"})))


def test_a_unit_that_a_heading_has_is_not_said_twice() -> None:
    named = replace(table(), headings={"after": "after, %", "loss": "loss, in points"})
    assert cells.shown(named).headings[2:4] == ("after, %", "loss, in points")


# Figures


def test_the_numbers_beside_a_figure_are_those_given(page: Page) -> None:
    (rows, *_) = [rows for rows in page.tables if rows[0][0] == "epsilon (of the pixel range)"]
    assert rows[0] == ["epsilon (of the pixel range)", *SYSTEMS[:6]]
    assert [float(row[0]) for row in rows[1:]] == list(EPSILONS)
    for column in range(6):
        for place, row in enumerate(rows[1:]):
            y, low, high, *seeds = (float(number) for number in re.findall(r"-?[\d.]+", row[1 + column]))
            given = curve(column)
            assert (y, low, high) == pytest.approx((given.y[place], given.low[place], given.high[place]), rel=1e-5)
            assert seeds == pytest.approx([seed[place] for seed in given.points], rel=1e-5)


def test_numbers_stand_beside_every_panel_that_has_some(text: str, page: Page) -> None:
    assert len(page.texts["details"]) == 3 + 1  # of the figures, and of the checks
    assert len(re.findall(r'<table class="numbers">', text)) == 7 + 2 + 1


def test_gaps_and_missing_places_are_empty_cells() -> None:
    panel = Panel("p", "x", "y", (Series("a", (1.0, 2.0), (5.0, None)), Series("b", (2.0, 3.0), (6.0, 7.0), points=((None, 1.0),))))
    assert cells.panel_table(panel).rows == (("1", "5", ""), ("2", "", "6\nseeds none"), ("3", "", "7\nseeds 1"))


def line_of(svg: str, color: str) -> list[tuple[float, float]]:
    """Return the points of the curve in a color, in the units of the drawing: its path is the one without an opacity."""
    (path,) = re.findall(rf'<path d="([^"]*)" clip-path="[^"]*" style="fill: none;[^"]*stroke: {color}; stroke-width: (?:1.3|2.8)', svg)
    return [(float(x), float(y)) for x, y in re.findall(r"(-?[\d.]+) (-?[\d.]+)", path)]


def scale_of(svg: str, axis: str) -> Callable[[float], float]:
    """Return where a value lies on an axis, in the units of the drawing, read off its first and last tick with a number."""
    marks = re.findall(r'<use [^>]*x="([\d.]+)" y="([\d.]+)"[^>]*/>\s*</g>\s*</g>\s*<g>\s*<text[^>]*>([\d.]+)</text>', svg)
    left = min(float(x) for x, _, _ in marks)  # the ticks of the y axis share their x
    ticks = [(float(text), float(y if axis == "y" else x)) for x, y, text in marks if (float(x) == left) == (axis == "y")]
    (low, start), (high, end) = ticks[0], ticks[-1]
    assert len(ticks) >= 4 and high > low
    return lambda value: start + (value - low) * (end - start) / (high - low)


def test_what_is_drawn_is_what_was_given() -> None:
    styles = {name: drawing.style(index) for index, name in enumerate(SYSTEMS)}
    svg = drawing.panel_svg(accuracy("p", 3), styles, unique="a")
    across, up = scale_of(svg, "x"), scale_of(svg, "y")
    assert up(100) < up(0)  # y grows downward in SVG
    bands = re.findall(r'<path id="[^"]*" d="([^"]*)"[^>]*/>\n</defs>\n<g [^>]*fill-opacity: 0.16[^>]*>\n<use [^>]*y="([\d.]+)"', svg)
    assert len(bands) == 3
    for index, color in enumerate(("currentColor", "#0072b2", "#e69f00")):
        given = curve(index)
        expected = [(across(x), up(y)) for x, y in zip(given.x, given.y, strict=True) if y is not None]
        assert line_of(svg, color) == [pytest.approx(point, abs=0.03) for point in expected]
        bounds = [(across(x), up(y)) for bound in (given.low, given.high) for x, y in zip(given.x, bound, strict=True) if y is not None]
        band, height = bands[index]
        corners = {(float(x), float(y) + float(height)) for x, y in re.findall(r"([\d.]+) (-[\d.]+)", band)}
        assert all(any(corner == pytest.approx(bound, abs=0.03) for corner in corners) for bound in bounds)


def test_a_gap_breaks_the_line_and_leaves_a_lone_value_its_marker() -> None:
    y = tuple(None if place in (5, 7) else float(place) for place in range(40))
    svg = drawing.panel_svg(Panel("p", "x", "y", (Series("a", tuple(map(float, range(40))), y),)), {"a": drawing.style(0)}, unique="a")
    (path,) = re.findall(r'<path d="([^"]*)" clip-path="[^"]*" style="fill: none; stroke: currentColor; stroke-width: 1.3', svg)
    assert path.count("M") in (2, 3) and drawing._marked([float("nan") if value is None else value for value in y], 0).count(6) == 1


def test_a_log_axis_has_no_room_for_zero_and_still_draws_the_rest() -> None:
    given = Series("a", (1.0, 2.0, 3.0), (0.0, 10.0, 1000.0))
    styles = {"a": drawing.style(0)}
    svg = drawing.panel_svg(Panel("p", "x", "y", (given,), y_log=True), styles, unique="a")
    assert len(line_of(svg, "currentColor")) == 2
    assert re.search(r">100</text>", svg)
    assert "<svg" in drawing.panel_svg(Panel("p", "x", "y", (replace(given, y=(0.0, 0.0, 0.0)),), y_log=True), styles, unique="a")


def test_a_long_label_is_broken_into_even_lines() -> None:
    panel = replace(accuracy("p", 1), y_label="mean absolute difference, units of a_d", x_label="a" + " " * 200 + "b", title="")
    svg = drawing.panel_svg(panel, {name: drawing.style(0) for name in SYSTEMS}, unique="a")
    assert ">mean absolute<" in svg and ">difference, units of a_d<" in svg


def test_the_adaptive_curve_is_heavier_in_the_figure_and_its_legend() -> None:
    styles = {name: drawing.style(index) for index, name in enumerate(SYSTEMS)}
    heavy, light = (drawing.panel_svg(accuracy("p", 1, stress=stress), styles, unique="a") for stress in (True, False))
    assert "stroke-width: 2.8" in heavy and "stroke-width: 2.8" not in light
    assert drawing.legend_of(figures()[0]) == {name: name == "VQUNet" for name in SYSTEMS[:6]}


def test_intervals_of_few_curves_are_bands_and_of_more_are_bars() -> None:
    styles = {name: drawing.style(index) for index, name in enumerate(SYSTEMS)}
    few, many = (drawing.panel_svg(accuracy("p", number), styles, unique="a") for number in (drawing.BANDS, drawing.BANDS + 1))
    assert few.count("fill-opacity: 0.16") == drawing.BANDS and "fill-opacity: 0.16" not in many
    assert len(re.findall(r'd="(?:M [\d.]+ [\d.]+ L [\d.]+ [\d.]+ ){4}"', many)) == drawing.BANDS + 1  # four bars of each curve


# The palette


def gray(color: str) -> float:
    """Return the luma of ITU-R BT.601, in [0, 1]: what a black and white printer leaves of a color."""
    red, green, blue = (int(color[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue


def test_no_two_of_sixty_systems_differ_by_color_only() -> None:
    styles = [drawing.style(index) for index in range(60)]
    assert len({(style.dash, style.marker) for style in styles}) == 60
    assert len({style.marker for style in styles[:12]}) == 12


def test_neighbours_in_the_legend_differ_in_dash_marker_and_gray() -> None:
    styles = [drawing.style(index) for index in range(13)]
    for one, next_one in zip(styles, styles[1:], strict=False):
        assert one.dash != next_one.dash and one.marker != next_one.marker
        assert abs(gray(one.color) - gray(next_one.color)) > 0.1


def test_colors_are_seen_on_white_and_on_dark_paper() -> None:
    for color in drawing.COLORS[1:]:  # the first is the page's own ink
        assert 0.25 < gray(color) < 0.75


def test_a_system_looks_the_same_in_every_figure(text: str) -> None:
    styles = drawing.styles_of(report())
    assert list(styles)[:6] == list(SYSTEMS[:6])
    assert set(styles) == set(SYSTEMS) and len(set(styles.values())) == 12
    for name in ("VQUNet", "non-VQUNet"):
        swatches = re.findall(rf"<li>(<svg(?:(?!</li>).)*</svg>) {name}</li>", text, re.DOTALL)
        colors = [set(re.findall(r"stroke: (currentColor|#[0-9a-f]{6})", swatch)) for swatch in swatches]
        assert len(swatches) >= 2 and all(found == colors[0] and len(found) == 1 for found in colors)


# The files


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("out")
    export(report(), folder, b"page")
    return folder


def test_every_part_has_its_files(folder: Path) -> None:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    figure_files = [f"figures/{name}.{ending}" for name in ("figure2", "figure3", "training") for ending in ("csv", "png", "svg")]
    table_files = [f"tables/{name}.{ending}" for name in ("claims", "table1") for ending in ("csv", "tex")]
    assert [name for name in names if not name.startswith("strips/")] == sorted([*figure_files, "report.html", "tables/checks.csv", *table_files])
    assert sum(name.startswith("strips/strips-VQUNet-") for name in names) == 9 and sum(name.startswith("strips/") for name in names) == 18


def test_figure_files_are_whole_and_the_same_twice(folder: Path) -> None:
    again = drawing.figure_files(figures()[2], drawing.styles_of(report()), STATEMENT)
    assert again == {ending: (folder / "figures" / f"figure3.{ending}").read_bytes() for ending in ("svg", "png")}
    svg = (folder / "figures" / "figure2.svg").read_text()
    said = " ".join(html.unescape(text) for text in re.findall(r"<text[^>]*>(.*?)</text>", svg, re.DOTALL))
    for words in ("VQUNet", "_hidden", NASTY, "accuracy (%)", "epsilon (of the pixel range)", "Made up numbers", "CW was not run <here>."):
        assert words in said
    with Image.open(folder / "figures" / "figure2.png") as image:
        assert image.width > 1500 and len(image.convert("RGB").getcolors(1 << 20) or ()) > 20


def test_csv_reads_back_unrounded(folder: Path) -> None:
    first, second = csv.DictReader(io.StringIO((folder / "tables" / "table1.csv").read_text()))
    assert first["system"] == "VQUNet" and second["system"] == NASTY
    assert [float(first[name]) for name in ("after", "after_low", "after_high", "loss")] == [0.9375, 0.92, 0.9512, -0.0095]
    assert second["printed"] == "" and second["after_low"] == "" and float(second["error"]) == 0.00123456
    assert [row["verdict"] for row in csv.DictReader(io.StringIO((folder / "tables" / "claims.csv").read_text()))] == ["fails", "holds", "not tested"]


def test_a_figures_csv_holds_every_number_unrounded(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((folder / "figures" / "figure2.csv").read_text())))
    assert len(rows) == 7 * 6 * 4
    (row,) = (row for row in rows if (row["panel"], row["curve"], row["x"]) == ("PGD, gray-box", "non-VQUNet", "0.02"))
    given = curve(1)
    assert [float(row[name]) for name in ("y", "low", "high", "seed_1", "seed_2")] == [
        given.y[1],
        given.low[1],
        given.high[1],
        given.low[1],
        given.high[1],
    ]


def test_latex_is_escaped_and_its_braces_balance(folder: Path) -> None:
    for path in sorted((folder / "tables").glob("*.tex")):
        text = path.read_text()
        bare = text.replace(r"\{", "").replace(r"\}", "")
        depth = 0
        for letter in bare:
            depth += {"{": 1, "}": -1}.get(letter, 0)
            assert depth >= 0
        assert depth == 0
        assert text.count(r"\begin{") == text.count(r"\end{") == 2
    text = (folder / "tables" / "table1.tex").read_text()
    nasty = r"a\_b \& \textless{}b\textgreater{}\{c\}\textless{}/b\textgreater{} \$x\_1\$ 5 \% \textbackslash{} \#\textasciitilde{}\textasciicircum{}"
    assert escape(NASTY) == nasty and f"{nasty} &  & 50.0 & 0.00" in text
    assert r"VQUNet & 93.1 & 93.8 [92.0, 95.1] & -0.95 & 1,234,567 &  &  & {}[a] remark" in text
    assert r"\begin{tabular}{lrrrrrll}" in text and text.index(r"\toprule") < text.index(r"\midrule") < text.index(r"\bottomrule")
    assert "at scale small" in text and r"A note \textless{}below\textgreater{}." in text


def test_latex_lines_have_one_cell_per_column() -> None:
    lines = [line for line in latex(cells.claims_table(claims()), STATEMENT).splitlines() if line.endswith(r"\\")]
    assert [len(re.findall(r"(?<!\\)&", line)) for line in lines] == [5] * 4


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    write_whole(path, b"old")
    write_whole(path, b"new")
    assert path.read_bytes() == b"new" and [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_a_name_never_leaves_its_folder(tmp_path: Path) -> None:
    paths = export(with_item(replace(table(), name="../../<evil> name")), tmp_path / "out", b"")
    assert [path.name for path in paths[1:]] == ["evil-name.csv", "evil-name.tex"]
    assert all(path.resolve().is_relative_to(tmp_path / "out") and path.exists() for path in paths)

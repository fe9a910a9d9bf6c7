"""One hostile name in every place that holds a name, and all that is printed or written of it.

It ends a line, turns text around, clears a screen, is markup of rich, Markdown, HTML and
matplotlib at once, and has 100,000 characters.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from export import calibrate, evaluate
from export.build import plain
from export.build.console import BuildDisplay, make_console, plan_table
from export.build.plan import Planned
from export.build.terminal import Console, Table
from export.calibration.comparison import comparison_text
from export.calibration.fitted_faces import Overlap
from export.calibration.labeled_predictions import LabeledPredictions
from export.demo.chart import Entry, draw_legend
from export.demo.table import estimates_table
from tests.export.calibration_examples import fewer_splits, made_up, write_csv
from tests.hostile_paths import EVIL, unprintable

MARKER = f"[red]$\\frac{{|<script>`*{EVIL}*`</script>|[a](b)[/red]:smile:" + "m" * 100_000
SHORT = MARKER.replace("\udcff", "")[:60]
"""As it fits into a CSV and its header."""


def check(text: str) -> None:
    assert not set(unprintable(text)), text[:300]
    assert "name\nline\u202e" not in text
    assert "m" * 3_000 not in text.replace("\n", "").replace(" ", "")


def check_page(page: str) -> None:
    check(page)
    for raw in ("<script>", "`*name", "[a](b)"):
        assert raw not in page
    widths: dict[int, str] = {}
    for line in page.splitlines():
        if line.startswith("|"):
            cells = line.replace("\\|", "").count("|")
            widths.setdefault(cells, line)
        elif widths:
            assert len(widths) == 1, widths
            widths = {}


def entry(name: str) -> Entry:
    expert = {"age_years": 30.0, "corrected_years": 31.0, "weight": 1.0}
    estimate = {"experts": {name: expert}, "age_years": 30.0, "low_years": None, "high_years": None}
    return Entry(Path("x") / name.replace("/", ""), estimate, None)


@pytest.mark.parametrize("kind", [Console, plain.Console])
def test_consoles_print_names_as_text(kind: type[Console]) -> None:
    table_kind = Table if kind is Console else plain.Table
    table = table_kind(title="t", title_justify="left")
    table.add_column("a")
    table.add_row(MARKER)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output := io.StringIO())
        console = kind(highlight=False)
        console.print(table)
        console.print(MARKER, soft_wrap=True)
        console.print(f"Wrote {MARKER}")
    text = output.getvalue()
    check(text)
    assert "[red]" in text
    assert "smile" in text


def test_tables_and_lines_of_a_build() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output := io.StringIO())
        console = make_console()
        console.print(plan_table([Planned(MARKER, MARKER, MARKER, 5, MARKER)]))
        console.print(estimates_table([entry(MARKER)]))
        with BuildDisplay(console) as display:
            display.stage(MARKER, MARKER)
            display.advance(0.5)
    check(output.getvalue())


def test_the_status_line_of_a_terminal() -> None:
    console = Console(file=(output := io.StringIO()), force_terminal=True, highlight=False)
    with BuildDisplay(console) as display:
        display.stage("[red]a\x1b[2J", "b")
        display.stage("[bold]x", "b")
    assert "\x1b[2J" not in output.getvalue()


def test_the_legend_of_a_picture() -> None:
    image = Image.new("RGB", (600, 40))
    draw_legend(ImageDraw.Draw(image), {MARKER: "#d1495b"}, "fused", (0.0, 0.0))
    assert np.asarray(image).any()


def test_the_text_of_a_comparison() -> None:
    found = {"faces": 9, "mae": 1.0, "other_mae": 2.0, "difference": 1.0,
             "difference_interval": (0.0, 1.0)}  # fmt: skip
    compared = {**found, "parts": {MARKER: {MARKER: found}}}
    check_page(comparison_text(compared, MARKER, MARKER, Overlap(9, 9, 3)))


@pytest.fixture(scope="module")
def named(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labeled predictions whose file, experts and groups have the marker's name."""
    folder = tmp_path_factory.mktemp("named")
    faces = made_up(120)
    names = (SHORT, "late", "flat")
    groups = {"side": np.where(faces.groups["side"] == "left", SHORT, "right")}
    table = LabeledPredictions(
        faces.age_years, names, faces.predictions_years, faces.people.astype(str), groups
    )
    return write_csv(folder / f"{SHORT.replace('/', '')}.csv", table)


def test_reports_plots_and_messages_of_a_calibration(
    named: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = named.parent / "out"
    given = ["--predictions", str(named), "--experts", SHORT, "late", "flat", "--groups", "side"]
    with fewer_splits():
        status = calibrate.main(
            [*given, "--form", "tables", "--bootstrap", "100", "--output", str(output)]
        )
    captured = capsys.readouterr()
    check(captured.out + captured.err)
    assert status == 0, captured.err
    check_page((output / "report.md").read_text(encoding="utf-8"))
    fusion = str(output / "fusion.json")
    arguments = [*given, "--fusion", fusion, "--compare", fusion, "--bootstrap", "100"]
    assert evaluate.main(arguments) == 0
    captured = capsys.readouterr()
    check(captured.err)
    check_page(captured.out)
    assert len(list(output.glob("*.png"))) == 4

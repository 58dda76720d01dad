"""The leaderboard as one HTML page and one Markdown file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from macedance.metrics.published import Published
from macedance.motion.atomic import write_atomically
from macedance.report.leaderboard import (
    Table,
    distributions,
    measured_alike,
    own_table,
    paired,
    preset_names,
    reasons_of,
    tables,
)
from macedance.report.leaderboard_entrants import Entrant, Found
from macedance.report.leaderboard_plots import standing
from macedance.report.metric_texts import PRESET_TEXTS
from macedance.report.page import Page, format_cell
from macedance.report.plots import histograms

_TITLE = "Leaderboard"
_LEAD = (
    "A number may be put beside a published one only if it was measured under the same convention, on the same data, "
    "at the same frame rate, and if our reference gives what the paper prints for its ground truth. Each table says "
    "which of our results pass, and every reason why the others do not."
)
_MOST_CHARACTERS, _MOST_OF_A_REASON = 400, 300
_TOLD = {"yes": "comparable", "with caution": "comparable with caution", "no": "not comparable"}
_SYSTEM, _COMPARABLE = "system", "comparable"


def write_leaderboard(folder: str | Path, found: Found, known: Published, *, command: str = "") -> list[Path]:
    """Write ``index.html``, ``leaderboard.md`` and the plots into a folder.

    Args:
        folder: The folder; made where it is missing.
        found: Our results.
        known: The published ones.
        command: What made it, shown at the end.

    Returns:
        The page and the Markdown file.

    Raises:
        DataError: The folder cannot be written.
    """
    folder = Path(folder)
    made = tables(found.entrants, known)
    markdown = folder / "leaderboard.md"
    write_atomically(markdown, _markdown(found, made).encode("utf-8", "backslashreplace"))
    return [_page(folder, found, made, command), markdown]


def _page(folder: Path, found: Found, made: Sequence[Table], command: str) -> Path:
    page = Page(_TITLE, f"{len(found.entrants)} results of ours beside {_count(made)} published rows.")
    page.add_text(_LEAD)
    _add_standing(page, found, made)
    _add_own(page, found.entrants)
    _add_distributions(page, found.entrants, folder / "plots")
    page.add_heading("Published numbers, and ours beside them")
    for table in made:
        _add_table(page, table, folder / "plots")
    if command:
        page.add_heading("How this page was made")
        page.add_code(command)
    return page.write(folder / "index.html")


def _count(made: Sequence[Table]) -> int:
    return sum(len(table.section.rows) for table in made)


def _add_standing(page: Page, found: Found, made: Sequence[Table]) -> None:
    page.add_heading("Which results are comparable")
    page.add_table(*_standing(made), "Numbers of published tables, of those that hold something of the result.")
    page.add_table(*_inputs(found.entrants))
    alike = [group for group in measured_alike(found.entrants) if len(group) > 1]
    told = "; ".join(", ".join(group) for group in alike)
    page.add_text(
        f"Measured alike, so that they compare with each other: {told}."
        if alike
        else "No two results were measured alike: data, lengths, settings or weights differ."
    )
    for remark in found.remarks:
        page.add_text(remark)


def _standing(made: Sequence[Table]) -> tuple[tuple[str, ...], list[list[str | int]]]:
    labels = list(made[0].verdicts)
    rows: list[list[str | int]] = []
    for label in labels:
        levels = [table.verdicts[label].level for table in made]
        where = [table.cite for table in made if table.verdicts[label].level != "no"]
        rows.append([label, levels.count("yes"), levels.count("with caution"), levels.count("no"), "; ".join(where)])
    return ("result", "comparable", "with caution", "not comparable", "where"), rows


def _inputs(entrants: Sequence[Entrant]) -> tuple[tuple[str, ...], list[list[str]]]:
    rows = []
    for entrant in entrants:
        inputs = entrant.result.inputs
        rows.append(
            [entrant.label, str(inputs.get("kind", "")), ", ".join(entrant.result.presets)]
            + [_of(inputs.get(name)) for name in ("clips", "fps")]
            + [entrant.dataset or "not said", entrant.result.hash[:12], str(entrant.path)]
        )
    return ("result", "kind", "presets", "clips", "fps", "data", "hash", "file"), rows


def _of(value: object) -> str:
    """``generated 40, reference 80`` of what ``inputs`` says for each set."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_of(part)}" for name, part in value.items())
    if isinstance(value, list | tuple):
        return " and ".join(map(_of, value))
    return "" if value is None else format_cell(value if isinstance(value, str | int | float) else str(value))


def _add_own(page: Page, entrants: Sequence[Entrant]) -> None:
    page.add_heading("Our results")
    for preset in preset_names(entrants):
        page.add_heading(preset, 3)
        page.add_text(PRESET_TEXTS.get(preset, ""))
        labels, rows = own_table(preset, entrants)
        page.add_table(
            ("metric", *labels), rows, "Value, 95% interval, number of clips; a floor is what two samples of the "
            "reference itself are apart.",
        )  # fmt: skip
        for reason in reasons_of(preset, entrants):
            page.add_text(_shortened(reason))
        differences = paired(preset, entrants)
        if differences:
            page.add_table(
                ("difference, clip by clip", "metric", "mean", "95% interval", "clips"),
                [
                    [f"{first} − {other}", key, entry["value"], _interval(entry), entry["n"]]
                    for first, other, key, entry in differences
                ],
                "Clips of one name, under the same constants; an interval without 0 is a difference.",
            )


def _shortened(text: str, most: int = _MOST_CHARACTERS) -> str:
    """Sentences that list clips are cut: the results themselves have them whole."""
    return text if len(text) <= most else f"{text[:most].rstrip(', ')} … (whole in the result)"


def _together(reasons: Sequence[str]) -> str:
    return "; ".join(_shortened(reason, _MOST_OF_A_REASON) for reason in reasons)


def _interval(entry: dict[str, object]) -> str:
    ends = entry.get("ci95")
    return f"{ends[0]:.4g} to {ends[1]:.4g}" if isinstance(ends, list) else ""


def _add_distributions(page: Page, entrants: Sequence[Entrant], plots: Path) -> None:
    drawn = [(preset, panels) for preset in preset_names(entrants) if (panels := distributions(preset, entrants))]
    if not drawn:
        return
    page.add_heading("How the clips are spread")
    for preset, panels in drawn:
        picture = histograms(panels, plots / f"clips-{preset}.png")
        page.add_image(picture, f"{preset}: one value a clip; a line is the median.", f"histograms of {preset}")


def _add_table(page: Page, table: Table, plots: Path) -> None:
    section = table.section
    page.add_heading(f"{section.title}: {table.cite}", 3)
    page.add_text(section.why)
    page.add_table(
        (_SYSTEM, *table.header, _COMPARABLE),
        [(row.name, *row.cells, row.comparable or row.origin) for row in table.rows],
        f"Convention: {section.preset or 'none of the protocol'}. Data: {section.dataset}. Clips: {section.n}.",
    )
    for note in _notes(table):
        page.add_text(note)
    page.add_table(
        ("result", _COMPARABLE, "why"),
        [(labels, verdict.level, _together(verdict.reasons)) for labels, verdict in table.judged],
    )
    checks = _checks(table)
    if checks:
        page.add_table(
            ("result", "reference", "printed", "ours", "difference", "allowed", "agrees"),
            checks,
            "Does our reference give the printed ground truth, to a few units of its last digit?",
        )
    if table.ours and any(value is not None for row in table.ours for value in row.values):
        page.add_image(
            standing(table, plots / f"table-{section.id}.png"),
            "Grey: published; black and dotted: its ground truth; coloured: ours, a cross where not comparable.",
        )


def _notes(table: Table) -> list[str]:
    """What must be known of rows, each sentence once."""
    systems: dict[str, list[str]] = {}
    for row in table.rows:
        if row.note:
            systems.setdefault(row.note, []).append(row.name)
    return [f"{', '.join(names)}: {note}" for note, names in systems.items()]


def _checks(table: Table) -> list[tuple[str, str, float, float, str, str, bool]]:
    return [
        (
            label,
            check.key,
            check.printed,
            check.ours,
            f"{check.ours - check.printed:+.3g}",
            f"±{check.tolerance:.2g}",
            check.holds,
        )
        for label, checks in table.checks.items()
        for check in checks
    ]


def _markdown(found: Found, made: Sequence[Table]) -> str:
    lines = [f"# {_TITLE}", "", _LEAD, ""]
    lines += _markdown_table(*_standing(made))
    for preset in preset_names(found.entrants):
        labels, rows = own_table(preset, found.entrants)
        lines += [f"## Ours: {preset}", "", *_markdown_table(("metric", *labels), rows)]
        lines += [*(f"- {_shortened(reason)}" for reason in reasons_of(preset, found.entrants)), ""]
    lines += ["## Published numbers, and ours beside them", ""]
    for table in made:
        section = table.section
        lines += [f"### {section.title}: {table.cite}", "", section.why, ""]
        rows = [
            [f"**{row.name}**" if row.origin == "ours" else row.name, *row.cells, row.comparable or row.origin]
            for row in table.rows
        ]
        lines += _markdown_table((_SYSTEM, *table.header, _COMPARABLE), rows)
        lines += [f"- {note}" for note in _notes(table)]
        lines += [
            f"- {labels}: {_TOLD[verdict.level]}" + (f": {_together(verdict.reasons)}" if verdict.reasons else "")
            for labels, verdict in table.judged
        ]
        lines.append("")
    lines += [f"- {remark}" for remark in found.remarks]
    return "\n".join(map(_plain, lines)).rstrip() + "\n"


def _plain(line: str) -> str:
    """Names and reasons are text: nothing in them is HTML."""
    return line.replace("&", "&amp;").replace("<", "&lt;")


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str | int]]) -> list[str]:
    def line(cells: Sequence[str | int]) -> str:
        return f"| {' | '.join(str(cell).replace('|', chr(92) + '|').replace(chr(10), ' ') for cell in cells)} |"

    return [line(header), line(["---"] * len(header)), *map(line, rows), ""]

"""What a study found, as a result of the protocol and as a page: win rates, agreement, metrics that follow raters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from macedance.errors import ConfigError, DataError
from macedance.metrics.protocol_result import ProtocolResult, read_protocol
from macedance.metrics.statistics import Entry
from macedance.metrics.study import (
    QUESTIONS,
    RESAMPLES,
    Answer,
    correlation_with_metric,
    krippendorff_alpha,
    left_share,
    preferences,
    self_agreement,
    win_rates,
)
from macedance.metrics.study_files import StudyKey
from macedance.report.metric_texts import text_of
from macedance.report.page import Cell, Page
from macedance.report.plots import COLOURS, _panels, _save, _styled

PRESET, CORRELATIONS = "study", "study_correlations"
_DIRECTIONS = {"higher": 1, "lower": -1}
#: Clip -> value of each metric, ``preset.key``.
Metrics = Mapping[str, Mapping[str, float]]


def read_metrics(paths: Sequence[str | Path]) -> dict[str, dict[str, float]]:
    """``preset.key`` -> clip -> value, of the results of one system.

    Raises:
        ConfigError: Two results that hold the same preset and key.
        DataError: A file that is no result, or none that holds values of clips.
    """
    found: dict[str, dict[str, float]] = {}
    twins = []
    for path in paths:
        for preset, keys in read_protocol(path).per_clip.items():
            for key, values in keys.items():
                name = f"{preset}.{key}"
                if name in found and not key.endswith("_reference"):
                    twins.append(f"{name} of {path}")
                elif not key.endswith("_reference"):
                    found[name] = dict(values)
    if twins:
        raise ConfigError(f"several results hold the same metric: {', '.join(twins)}", expected="each metric once")
    if paths and not found:
        raise DataError(
            "the results hold no values of single clips", where=", ".join(map(str, paths)),
            fix="evaluate again with this version: per_clip is written always",
        )  # fmt: skip
    return found


def study_result(
    key: StudyKey,
    answers: Sequence[Answer],
    remarks: Sequence[str] = (),
    *,
    metrics_a: Metrics | None = None,
    metrics_b: Metrics | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> ProtocolResult:
    """What the answers say.

    Args:
        key: Of the study.
        answers: See read_answers.
        remarks: Of their reading, for the record.
        metrics_a: ``preset.key`` -> clip -> value of system a; see read_metrics.
        metrics_b: The same of b.
        resamples: Of the bootstraps.
        seed: Of them.

    Returns:
        A result of kind ``study``: preset ``study`` with each question's win rate (see win_rates) and
        ``left_share self_agreement``, and ``study_correlations`` with ``<question>~<preset>.<key>``.
    """
    entries = win_rates(answers, resamples=resamples, seed=seed)
    by_question: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_question[answer.question].append(answer)
    entries = {question: entries[question] for question in key.questions if question in entries}
    for question, entry in entries.items():
        entry["krippendorff_alpha"] = krippendorff_alpha(by_question[question])
    presets: dict[str, dict[str, Entry]] = {
        PRESET: entries | {"left_share": left_share(answers), "self_agreement": self_agreement(answers)}
    }
    liked = preferences(answers)
    notes: dict[str, list[str]] = {PRESET: [*key.remarks, *remarks]}
    if metrics_a is not None and metrics_b is not None:
        presets[CORRELATIONS] = _correlations(liked, metrics_a, metrics_b, resamples, seed)
        notes[CORRELATIONS] = _about_correlations(metrics_a, metrics_b, presets[CORRELATIONS])
    raters = sorted({answer.rater for answer in answers})
    inputs: dict[str, Any] = {
        "kind": "study",
        "clips": {which: len({trial.clip for trial in key.trials}) for which in ("a", "b")},
        "raters": len(raters),
        "systems": dict(key.names),
        "study": key.study,
        "settings": {"resamples": resamples, "seed": seed, "study": key.study, "questions": list(key.questions)},
        "notes": {name: sentences for name, sentences in notes.items() if sentences},
    }
    conventions = {PRESET: {"choice": "pairwise, ties allowed", "interval": "raters resampled"}}
    return ProtocolResult(presets, {}, inputs, conventions, per_clip={PRESET: liked})


def _correlations(
    liked: Mapping[str, Mapping[str, float]], metrics_a: Metrics, metrics_b: Metrics, resamples: int, seed: int
) -> dict[str, Entry]:
    return {
        f"{question}~{name}": correlation_with_metric(
            liked[question],
            metrics_a[name],
            metrics_b[name],
            better=_DIRECTIONS.get(text_of(name.rpartition(".")[2]).better, 0),
            resamples=resamples,
            seed=seed,
        )
        for question in liked
        for name in metrics_a
        if name in metrics_b
    }


def _about_correlations(metrics_a: Metrics, metrics_b: Metrics, entries: Mapping[str, Entry]) -> list[str]:
    notes = []
    lone = sorted(set(metrics_a) ^ set(metrics_b))
    if lone:
        notes.append(f"measured of one system only, and left out: {', '.join(lone)}")
    given = [entry for entry in entries.values() if entry["value"] is not None]
    if given:
        notes.append(
            f"{len(given)} correlations: about {max(1, round(0.05 * len(given)))} of their intervals would exclude 0 "
            "even if no metric had anything to do with the raters"
        )
    notes.append("distances between sets of clips, such as Fréchet's, have no value of a clip and cannot be correlated")
    return notes


def write_study_results(folder: str | Path, result: ProtocolResult, *, command: str = "") -> Path:
    """Write ``index.html`` and its plots into a folder; returns the page.

    Raises:
        DataError: The folder cannot be written.
    """
    folder = Path(folder)
    a, b = (result.inputs["systems"][which] for which in ("a", "b"))
    entries = result.presets[PRESET]
    asked = {key: entry for key, entry in entries.items() if key in QUESTIONS}
    page = Page(f"{a} or {b}?", "What raters preferred, pair by pair and blind.")
    facts: dict[str, Cell] = {
        "raters": result.inputs["raters"],
        "pairs": result.inputs["clips"]["a"],
        "answers": sum(entry["n"] for entry in asked.values()),
        "left side chosen": entries["left_share"]["value"],
        "same answer when asked again": entries["self_agreement"]["value"],
    }
    page.add_facts(facts)
    page.add_heading("Preferences")
    if asked:
        page.add_image(
            _preference_plot(asked, a, b, folder / "plots" / "preferences.png"), f"Share of {a}: 0.5 is even."
        )
    page.add_table(
        ("question", f"share of {a}", "95%, other raters", "95%, other raters and clips", f"{a}", f"{b}", "ties",
         "p, all questions", "raters agree"),
        [_preference_row(key, entry) for key, entry in asked.items()],
        "A tie counts half. Intervals resample whole raters; p flips the preferences of whole raters, two-sided, "
        "corrected by Holm; the agreement of raters is Krippendorff's alpha.",
    )  # fmt: skip
    page.add_table(
        ("question", "source", "what was asked", "without ties", "Wilson's 95%"),
        [
            (QUESTIONS[key].name, QUESTIONS[key].source, QUESTIONS[key].text, entry["win_rate"],
             _ends(entry.get("win_rate_wilson95")))
            for key, entry in asked.items()
        ],
        "Wilson's interval takes every answer for independent, as papers do; several answers of one rater are not.",
    )  # fmt: skip
    page.add_text(
        "Choices between two systems are not the shares of votes or the scores that papers print: MACE-Dance's raters "
        "chose among five systems, EDMG's gave points."
    )
    for sentence in _sentences(result, PRESET, asked):
        page.add_text(sentence)
    if CORRELATIONS in result.presets:
        _add_correlations(page, result)
    if command:
        page.add_heading("How this page was made")
        page.add_code(command)
    return page.write(folder / "index.html")


def _preference_row(key: str, entry: Entry) -> list[Cell]:
    ends = [_ends(entry.get(name)) for name in ("ci95", "ci95_raters_and_clips")]
    wins = [entry[name] for name in ("wins_a", "wins_b", "ties")]
    alpha = entry["krippendorff_alpha"]
    agreement = None if alpha is None else f"{alpha:.2f}"
    return [QUESTIONS[key].name, entry["value"], *ends, *wins, entry.get("p_holm"), agreement]


def _ends(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def _sentences(result: ProtocolResult, preset: str, entries: Mapping[str, Entry]) -> list[str]:
    reasons: dict[str, list[str]] = defaultdict(list)
    for key, entry in entries.items():
        if entry.get("reason"):
            reasons[entry["reason"]].append(key)
    return [*(f"{', '.join(keys)}: {reason}." for reason, keys in reasons.items())] + [
        f"{note[:1].upper()}{note[1:]}." for note in result.inputs["notes"].get(preset, [])
    ]


def _add_correlations(page: Page, result: ProtocolResult) -> None:
    page.add_heading("Which metrics follow the raters")
    page.add_text(
        "For each clip, the difference of the metric between the two systems beside the share of raters who preferred "
        "the first one: rank correlation over the clips. Agreement: of the clips on which both decide, the share on "
        "which the metric prefers what the raters prefer."
    )
    rows: list[list[Cell]] = []
    entries = result.presets[CORRELATIONS]
    for name, entry in sorted(entries.items(), key=lambda item: -abs(item[1]["value"] or 0.0)):
        if entry["value"] is not None:
            question, _, metric = name.partition("~")
            agreement: list[Cell] = [entry.get("agreement"), _ends(entry.get("agreement_wilson95"))]
            rows.append(
                [QUESTIONS[question].name, metric, entry["value"], _ends(entry.get("ci95")), entry["n"], *agreement]
            )
    if rows:
        page.add_table(("question", "metric", "correlation", "95%", "clips", "agreement", "95%"), rows)
    for sentence in _sentences(result, CORRELATIONS, entries):
        page.add_text(sentence)


@_styled
def _preference_plot(entries: Mapping[str, Entry], a: str, b: str, out: Path) -> Path:
    figure, (axes,) = _panels(1, 1, width=7.2, height=0.9 + 0.34 * len(entries))
    for line, entry in enumerate(entries.values()):
        low, high = entry.get("ci95", (entry["value"], entry["value"]))
        axes.plot([low, high], [line, line], color=COLOURS[1], linewidth=2.2)
        axes.plot([entry["value"]], [line], "o", color=COLOURS[1], markersize=6)
    axes.axvline(0.5, color="#1f2433", linewidth=0.9, linestyle=":")
    axes.set_yticks(range(len(entries)), [QUESTIONS[key].name for key in entries])
    axes.set_ylim(len(entries) - 0.5, -0.5)
    axes.set_xlim(0, 1)
    axes.set_xlabel(f"{b} preferred  ←   share of {a}   →  {a} preferred")
    return _save(figure, out)

"""The page of a cascade comparison: verdicts, gaps, the arms' videos side by side, and what explains the gap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from macedance.metrics.cascade.differences import MIN_GATE_PAIRS, MOST_LEFT_OUT
from macedance.metrics.cascade.scores import DISTANCE, GAP_PREFIX, GENERATED, GROUND_TRUTH, REAL, VIDEO_KEYPOINTS
from macedance.metrics.protocol_result import ProtocolResult
from macedance.report.cascade_plots import dose_response, doses, gap_over_distance
from macedance.report.cascade_text import cascade_remarks, gap_arms, gap_text, measured_keys, verdict_text
from macedance.report.metric_texts import text_of
from macedance.report.page import Cell, Page
from macedance.report.protocol_page import add_measured, add_summary

#: Clips whose videos are shown; the folder has all of them.
SHOWN_CLIPS = 4
_MOST_PANELS = 9
_ARMS: dict[str, str] = {
    GROUND_TRUTH: "the true motion drives the renderer: what the renderer itself can do",
    REAL: "the true video, which nobody rendered",
    VIDEO_KEYPOINTS: "the keypoints of the true video drive the renderer: what the way through 3-D motion costs",
    GENERATED: "the generated motion drives the renderer: the cascade",
}
_ARROWS = {"lower": " ↓", "higher": " ↑"}


def write_cascade_page(
    result: ProtocolResult,
    folder: Path | str,
    *,
    videos: Path | None = None,
    true_videos: Mapping[str, Path] | None = None,
    subtitle: str = "",
    command: str = "",
) -> Path:
    """Write ``index.html`` and its plots into a folder.

    Args:
        result: Of ``evaluate_cascade``.
        folder: The folder; made where it is missing.
        videos: Where the arms' videos are, as ``<arm>/<clip>.mp4``; None: none are shown.
        true_videos: Clip -> the true video, to be shown beside them.
        subtitle: One line under the title.
        command: The command that made it, shown at the end.

    Raises:
        DataError: The folder cannot be written.
    """
    folder = Path(folder)
    page = Page("The cascade gap", subtitle)
    add_summary(page, result)
    page.add_text(
        "One renderer, driven by true, generated and disturbed motion; same clips, same reference images, same seed. A "
        "gap is the mean over clips of an arm's value less that of the true motion's arm, with its 95% interval by "
        f"resampling clips (below {MIN_GATE_PAIRS} pairs Student's t). What the renderer gets wrong on true motion too "
        "is in no gap. Pose adherence and contact compare each video with what drove it, so that they judge the "
        "renderer, not the dance; contact_error is a share of contacts, and near 1 where a motion hardly stands on the "
        "floor."
    )
    _add_gates(page, result)
    _add_gaps(page, result)
    if videos is not None:
        _add_videos(page, result, videos, true_videos or {})
    _add_doses(page, result, folder / "plots" / "dose_response.png")
    _add_regression(page, result, folder / "plots" / "gap_over_distance.png")
    _add_arms(page, result)
    remarks = cascade_remarks(result)
    if remarks:
        page.add_heading("What must be known of these numbers")
        for line in remarks:
            page.add_text(line)
    add_measured(page, result)
    if command:
        page.add_code(command)
    return page.write(folder / "index.html")


def _add_gates(page: Page, result: ProtocolResult) -> None:
    judged = [
        (key, entry) for key, entry in result.presets.get(f"{GAP_PREFIX}{GENERATED}", {}).items() if "gate" in entry
    ]
    if not judged:
        return
    page.add_heading("Gates")
    rows: list[Sequence[Cell]] = [
        (
            entry["gate"],
            gap_text(entry) or "–",
            entry.get("n", 0),
            verdict_text(entry),
        )
        for _, entry in judged
    ]
    page.add_table(
        ("gap must be", "gap of the generated arm", "clips", "verdict"),
        rows,
        f"Passed or failed where the whole interval lies on one side of the limit; by at least {MIN_GATE_PAIRS} pairs, "
        f"and where at most {MOST_LEFT_OUT:.0%} of them have no value.",
    )


def _add_gaps(page: Page, result: ProtocolResult) -> None:
    gaps = result.presets.get(f"{GAP_PREFIX}{GENERATED}", {})
    rows: list[Sequence[Cell]] = []
    for key in measured_keys(result):
        entry, text = gaps.get(key, {}), text_of(key.removeprefix("motion_"))
        p = entry.get("wilcoxon_p")
        rows.append(
            (
                key + _ARROWS.get(text.better, ""),
                *(_value(result, arm, key) for arm in (GROUND_TRUTH, GENERATED)),
                gap_text(entry) or "–",
                None if p is None else float(p),
                entry.get("n"),
                text.text,
            )
        )
    page.add_heading("The gap")
    page.add_table(
        ("metric", "true motion", "generated motion", "gap (95% interval)", "Wilcoxon p", "pairs", "what it is"),
        rows,
        "Arrows: which way is better. Keys that begin with motion_ are of the driving motion itself.",
    )


def _add_videos(page: Page, result: ProtocolResult, videos: Path, true_videos: Mapping[str, Path]) -> None:
    strongest = [levels[max(levels)] for levels in doses(result).values()]
    arms = [GROUND_TRUTH, GENERATED, *([VIDEO_KEYPOINTS] if VIDEO_KEYPOINTS in gap_arms(result) else []), *strongest]
    clips = list(result.per_clip.get(GROUND_TRUTH, {}).get(measured_keys(result)[0], {})) if result.per_clip else []
    clips = [clip for clip in clips if (videos / GROUND_TRUTH / f"{clip}.mp4").is_file()]
    if not clips:
        return
    page.add_heading("The arms side by side")
    page.add_text(f"The first {min(SHOWN_CLIPS, len(clips))} of {len(clips)} clips; all videos are in {videos.name}/.")
    for clip in clips[:SHOWN_CLIPS]:
        page.add_heading(clip, level=3)
        if clip in true_videos:
            page.add_video(true_videos[clip], REAL)
        for arm in arms:
            path = videos / arm / f"{clip}.mp4"
            if path.is_file():
                page.add_video(path, arm)


def _add_doses(page: Page, result: ProtocolResult, picture: Path) -> None:
    kinds = doses(result)
    if not kinds:
        return
    arms = [arm for levels in kinds.values() for arm in levels.values()]
    keys = [
        key
        for key in measured_keys(result)
        if any(result.presets[f"{GAP_PREFIX}{arm}"].get(key, {}).get("value") is not None for arm in arms)
    ]
    page.add_heading("Dose and response")
    page.add_text(
        "The true motion made worse by known amounts: a metric whose gap does not grow with the dose does not see it."
    )
    described = result.conventions["cascade"]["perturbations"]
    page.add_table(
        ("perturbation", "what it does", "sizes"),
        [(kind, described[kind]["what"], _sizes(described[kind])) for kind in kinds],
    )
    page.add_image(dose_response(result, keys[:_MOST_PANELS], picture), "Gaps over the level, with 95% intervals.")
    rows: list[Sequence[Cell]] = [
        (key, *(gap_text(result.presets[f"{GAP_PREFIX}{arm}"].get(key, {})) or "–" for arm in arms)) for key in keys
    ]
    page.add_table(("metric", *arms), rows, "Gaps of the disturbed true motion.")


def _add_regression(page: Page, result: ProtocolResult, picture: Path) -> None:
    gaps = result.presets.get(f"{GAP_PREFIX}{GENERATED}", {})
    lines = {key: entry["regression"] for key, entry in gaps.items() if "slope" in entry.get("regression", {})}
    if not lines:
        return
    page.add_heading("Is odd motion the reason?")
    page.add_text(
        "Each clip's difference over the distance of its generated from its true motion, in the standardised kinetic "
        "features of `clean`. A slope whose interval leaves out 0 says that the video is worse where the motion is odd."
    )
    page.add_image(gap_over_distance(result, list(lines)[:_MOST_PANELS], picture), "One point a clip.")
    rows: list[Sequence[Cell]] = [
        (key, float(line["slope"]), _interval(line.get("slope_ci95")), line.get("r"), line["n"])
        for key, line in lines.items()
    ]
    page.add_table(("metric", "slope", "95% interval", "correlation", "clips"), rows)


def _add_arms(page: Page, result: ProtocolResult) -> None:
    arms = [GROUND_TRUTH, *gap_arms(result)]
    page.add_heading("All arms")
    counts = result.inputs["clips"].get("arms", {})
    absent = result.inputs.get("absent_arms", {})
    rows: list[Sequence[Cell]] = [
        (arm, counts.get(arm, 0), absent.get(arm) or _ARMS.get(arm, "the true motion, disturbed"))
        for arm in dict.fromkeys([*arms, *counts])
    ]
    page.add_table(("arm", "clips", "what it is"), rows)
    keys = [*measured_keys(result), DISTANCE]
    page.add_table(
        ("metric", *arms),
        [(key, *(_value(result, arm, key) for arm in arms)) for key in keys],
        "Mean values over clips.",
    )


def _value(result: ProtocolResult, arm: str, key: str) -> Cell:
    value = result.presets.get(arm, {}).get(key, {}).get("value")
    return None if value is None else float(value)


def _interval(ends: Sequence[float] | None) -> str:
    return "–" if not ends else f"{ends[0]:.3g} .. {ends[1]:.3g}"


def _sizes(described: Mapping[str, object]) -> str:
    sizes = described["sizes"]
    assert isinstance(sizes, list | tuple)  # perturbation_settings
    return f"{', '.join(f'{float(size):g}' for size in sizes)} {described['unit']}"

"""One evaluation of generated against reference dances, joints or keypoints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from macedance.errors import DataError
from macedance.metrics.clips import unmatched, with_music_of
from macedance.metrics.conventions import Clip, Preset, points_of
from macedance.metrics.keypoints import COCO_17, CONFIDENT, KeypointClip, uncertain_keypoints
from macedance.metrics.motion import MotionMetrics
from macedance.metrics.presets import CLEAN_KEYPOINTS, presets_for
from macedance.metrics.protocol_result import SCHEMA as SCHEMA
from macedance.metrics.protocol_result import PerClip
from macedance.metrics.protocol_result import ProtocolResult as ProtocolResult
from macedance.metrics.protocol_result import read_protocol as read_protocol
from macedance.metrics.protocol_result import write_protocol as write_protocol
from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES, Entry


def evaluate_protocol(
    generated: Sequence[Clip],
    reference: Sequence[Clip],
    *,
    presets: Sequence[str] = ("clean",),
    allow_small_n: bool = False,
    resamples: int = MEAN_RESAMPLES,
    floor_draws: int = FLOOR_DRAWS,
    seed: int = 0,
    resolution: tuple[int, int] | None = None,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
) -> ProtocolResult:
    """Judge generated clips by reference clips under some presets, with intervals and floors.

    Args:
        generated: Clips of one kind. One without music is judged by the beats of the reference clip of its name.
        reference: Clips of the same kind.
        presets: Names; ``clean`` is that of the clips' kind.
        allow_small_n: Give Fréchet distances for fewer clips than features too.
        resamples: Of the bootstrap; 0: no intervals.
        floor_draws: Of the floor; 0: no floor.
        seed: Of both.
        resolution: Width and height of the videos that keypoints come from.
        left_out: ``generated`` and ``reference`` -> file name -> why it was left out before, for the record.

    Raises:
        ConfigError: An unknown preset, or one for clips of the other kind.
        DataError: An empty set, or clips of different kinds.
    """
    generated, reference = list(generated), list(reference)
    if not generated or not reference:
        raise DataError(
            f"{len(generated)} generated and {len(reference)} reference clips", expected="at least one of each"
        )
    chosen = presets_for(presets, generated)
    generated = with_music_of(generated, reference)
    settings = {"allow_small_n": allow_small_n, "resamples": resamples, "floor_draws": floor_draws, "seed": seed}
    values, floors = {}, {}
    per_clip: PerClip = {}
    for preset in chosen:
        judged = with_music_of(generated, reference, replace_own=True) if preset.beat.reference_music else generated
        metrics = MotionMetrics(preset, extras=True, sync_on_compute=False, **settings)  # type: ignore[arg-type]
        metrics.update(judged)
        metrics.update(reference, reference=True)
        values[preset.name], floors[preset.name] = split_floor(metrics.compute())
        per_clip[preset.name] = named_per_clip(metrics.per_clip(), clip_labels(judged), clip_labels(reference))
    inputs = described(generated, reference) | {
        "resolution": None if resolution is None else list(resolution),
        "settings": settings,
        "left_out": {which: dict((left_out or {}).get(which, {})) for which in ("generated", "reference")},
        "notes": {preset.name: preset_notes(preset, generated, reference) for preset in chosen},
    }
    conventions = {preset.name: asdict(preset) for preset in chosen}
    return ProtocolResult(values, floors, inputs, conventions, per_clip=per_clip)


def split_floor(entries: Mapping[str, Entry]) -> tuple[dict[str, Entry], dict[str, Entry]]:
    """Entries of MotionMetrics without their ``floor``, and the floors by key: a result keeps them apart."""
    bare = {key: {name: part for name, part in entry.items() if name != "floor"} for key, entry in entries.items()}
    return bare, {key: entry["floor"] for key, entry in entries.items() if "floor" in entry}


def clip_labels(clips: Sequence[Clip]) -> list[str]:
    """The name of each clip; one without a name, or whose name another one has too, gets its number added."""
    counts = Counter(clip.name for clip in clips)
    return [
        clip.name if clip.name and counts[clip.name] == 1 else f"{clip.name or 'clip'}#{number}"
        for number, clip in enumerate(clips)
    ]


def named_per_clip(
    values: Mapping[str, Mapping[int, float]], generated: Sequence[str], reference: Sequence[str]
) -> dict[str, dict[str, float]]:
    """Values by id, see MotionMetrics.per_clip, as values by name; ids are positions in the two lists of names."""
    return {
        key: {(reference if key.endswith("_reference") else generated)[number]: value for number, value in of.items()}
        for key, of in values.items()
    }


def preset_notes(preset: Preset, generated: Sequence[Clip], reference: Sequence[Clip]) -> list[str]:
    """What a reader of this preset's numbers must know of these clips, one sentence each; names are all listed."""
    notes = []
    for which, clips in (("generated", generated), ("reference", reference)):
        other = {clip.fps for clip in clips} - {preset.published_fps}
        if preset.published_fps is not None and other:
            notes.append(
                f"{which} clips have {_rates(other)} fps, the convention was published for "
                f"{preset.published_fps:g}: its constants were applied to the frames as they are"
            )
        notes += _window_notes(preset, which, clips)
        if preset == CLEAN_KEYPOINTS:
            planar = [clip for clip in clips if isinstance(clip, KeypointClip)]
            filled = sum(uncertain_keypoints(clip) for clip in planar)
            total = sum(len(clip.keypoints) for clip in planar) * len(COCO_17)
            if filled:
                notes.append(
                    f"{filled} of {total} keypoints of the {which} clips are below a confidence of {CONFIDENT:g} and "
                    "were filled in"
                )
    ours, theirs = ({clip.fps for clip in clips} for clips in (generated, reference))
    if preset.published_fps is None and ours != theirs:
        notes.append(f"generated clips have {_rates(ours)} fps, the reference {_rates(theirs)}")
    if preset.beat.reference_music:
        lone = unmatched(generated, reference)[0]
        if lone:
            notes.append(
                f"{len(lone)} generated clips have no reference clip of their name and were judged by beats of their "
                f"own: {', '.join(lone)}"
            )
    return notes


def _window_notes(preset: Preset, which: str, clips: Sequence[Clip]) -> list[str]:
    frames = preset.window.frames
    if frames is None:
        return []
    notes = []
    short = [clip.name or "(unnamed)" for clip in clips if len(points_of(clip)) < frames]
    if short:
        what = "left out" if preset.window.leave_out_shorter else "used whole"
        notes.append(
            f"{len(short)} of {len(clips)} {which} clips are shorter than the published {frames} frames and were "
            f"{what}: {', '.join(short)}"
        )
    long = [clip for clip in clips if len(points_of(clip)) > frames]
    if long and not (which == "reference" and preset.window.whole_reference):
        stride = preset.window.stride
        how = f"their first {frames} frames" if stride is None else f"windows of {frames} frames every {stride}"
        notes.append(f"{len(long)} of {len(clips)} {which} clips are longer and were cut to {how}")
    return notes


def _rates(rates: Iterable[float]) -> str:
    return ", ".join(f"{fps:g}" for fps in sorted(rates))


def described(generated: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, Any]:
    """What of ``inputs`` the clips themselves say: kind, frame rates, lengths, numbers, names without a partner."""
    sets = {"generated": generated, "reference": reference}
    lone = unmatched(generated, reference)
    return {
        "kind": "keypoints" if isinstance(generated[0], KeypointClip) else "joints",
        "fps": {which: sorted({clip.fps for clip in clips}) for which, clips in sets.items()},
        "seconds_per_clip": {which: _spread(clips) for which, clips in sets.items()},
        "clips": {which: len(clips) for which, clips in sets.items()},
        "with_music": {which: sum(clip.music_beats_s is not None for clip in clips) for which, clips in sets.items()},
        "unmatched": dict(zip(sets, lone, strict=True)),
    }


def _spread(clips: Sequence[Clip]) -> dict[str, float]:
    seconds = np.array([len(points_of(clip)) / clip.fps for clip in clips])
    return {name: round(float(f(seconds)), 3) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}

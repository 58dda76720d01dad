"""One evaluation of generated against reference dances, and the one JSON that it is written as.

``{"schema": 1, "presets": {name: {key: entry}}, "floor": {name: {"fid_k": entry, "fid_g": entry}}, "inputs": {...},
"weights": {model: sha256}, "hash": ...}``. An entry is ``{"value", "n", "ci95": [low, high], ...}``; one without a
value has ``"value": null`` and a ``"reason"``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from macedance.errors import DataError
from macedance.metrics.clips import unmatched, with_music_of
from macedance.metrics.conventions import Clip, Preset, points_of
from macedance.metrics.keypoints import COCO_17, CONFIDENT, KeypointClip, uncertain_keypoints
from macedance.metrics.motion import evaluate_clips
from macedance.metrics.presets import CLEAN_KEYPOINTS, presets_for
from macedance.metrics.statistics import FLOOR_DRAWS, MEAN_RESAMPLES, Entry
from macedance.motion.atomic import write_atomically

SCHEMA = 1
#: What of the inputs makes two evaluations different ones; names of files and remarks do not.
_HASHED_INPUTS = ("kind", "fps", "resolution", "seconds_per_clip", "clips", "settings")


@dataclass(frozen=True)
class ProtocolResult:
    """The result of one evaluation.

    Args:
        presets: Preset -> key -> entry.
        floor: Preset -> ``fid_k``, ``fid_g`` -> what two samples of the reference are apart.
        inputs: What was compared: kind, fps, resolution, seconds per clip, numbers of clips, settings, and every clip
            that was left out, unmatched or remarked on.
        conventions: Preset -> its constants; they are part of the hash.
        weights: Model -> sha256 of its weights, where networks judged.
    """

    presets: dict[str, dict[str, Entry]]
    floor: dict[str, dict[str, Entry]]
    inputs: dict[str, Any]
    conventions: dict[str, dict[str, Any]]
    weights: dict[str, str] = field(default_factory=dict)

    @property
    def hash(self) -> str:
        """Sha256 of how was measured: conventions, frame rates, lengths, numbers of clips, settings, weights.

        Two results of one hash were measured alike; it does not depend on the values.
        """
        inputs = {key: self.inputs.get(key) for key in _HASHED_INPUTS}
        measured = {"schema": SCHEMA, "conventions": self.conventions, "inputs": inputs, "weights": self.weights}
        return hashlib.sha256(json.dumps(measured, sort_keys=True, allow_nan=False).encode()).hexdigest()

    def as_json(self) -> dict[str, Any]:
        """The object that is written, of schema 1."""
        return {
            "schema": SCHEMA,
            "presets": self.presets,
            "floor": self.floor,
            "inputs": self.inputs,
            "weights": self.weights,
            "hash": self.hash,
        }


def write_protocol(path: str | Path, result: ProtocolResult) -> None:
    """Write a result, to a temporary name first.

    Raises:
        DataError: The folder cannot be written.
    """
    text = json.dumps(result.as_json(), indent=2, allow_nan=False, ensure_ascii=False)
    write_atomically(path, f"{text}\n".encode())


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
    for preset in chosen:
        judged = with_music_of(generated, reference, replace_own=True) if preset.beat.reference_music else generated
        entries = evaluate_clips(judged, reference, preset=preset, extras=True, **settings)  # type: ignore[arg-type]
        floors[preset.name] = {key: entry.pop("floor") for key, entry in entries.items() if "floor" in entry}
        values[preset.name] = entries
    inputs = _described(generated, reference) | {
        "resolution": None if resolution is None else list(resolution),
        "settings": settings,
        "left_out": {which: dict((left_out or {}).get(which, {})) for which in ("generated", "reference")},
        "notes": {preset.name: preset_notes(preset, generated, reference) for preset in chosen},
    }
    conventions = {preset.name: asdict(preset) for preset in chosen}
    return ProtocolResult(values, floors, inputs, conventions)


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


def _described(generated: Sequence[Clip], reference: Sequence[Clip]) -> dict[str, Any]:
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

"""One evaluation of videos by metrics of single videos, as the same result that every other evaluation gives.

A preset of videos is a named set of metrics, with what it could not compute and why. Results have the schema of
macedance.metrics.protocol_result, ``inputs.kind`` is ``video``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from macedance.errors import ConfigError, DataError
from macedance.metrics.protocol_result import PerClip, ProtocolResult
from macedance.metrics.statistics import Entry
from macedance.metrics.videos import PerVideoMetric, score_videos
from macedance.vision.video import Video

REFERENCE = "_reference"
_SPREAD: dict[str, Callable[[np.ndarray], Any]] = {"min": np.min, "median": np.median, "max": np.max}


@dataclass(frozen=True)
class VideoPreset:
    """A named set of metrics.

    Args:
        name: Under which results list it.
        metrics: Its metrics; no two have a key in common.
        unavailable: Key -> why it cannot be computed here.
        order: Keys in the order of reports; others follow.
        notes: What a reader must know of the numbers, one sentence each.

    Raises:
        ConfigError: Two metrics of one key.
    """

    name: str
    metrics: Sequence[PerVideoMetric]
    unavailable: Mapping[str, str] = field(default_factory=dict)
    order: Sequence[str] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        keys = [key for metric in self.metrics for key in metric.keys]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise ConfigError(f"two metrics of the preset {self.name} have the keys {', '.join(twice)}")

    def to(self, device: torch.device | str) -> None:
        """Move the metrics; their networks follow when they are used."""
        for metric in self.metrics:
            metric.to(device)

    def reset(self) -> None:
        """Forget every video."""
        for metric in self.metrics:
            metric.reset()

    def entries(self, *, unavailable: bool = True) -> dict[str, Entry]:
        """Key -> entry, of the videos of all ranks: on several, every rank must call it.

        Args:
            unavailable: Also those without a metric, with the reason.
        """
        found: dict[str, Entry] = {}
        for metric in self.metrics:
            found |= metric.compute()
        for key, reason in self.unavailable.items() if unavailable else ():
            found.setdefault(key, {"value": None, "n": 0, "reason": reason})
        ordered = [key for key in self.order if key in found]
        return {key: found[key] for key in (*ordered, *(key for key in found if key not in ordered))}

    def per_clip(self, names: Mapping[int, str]) -> dict[str, dict[str, float]]:
        """Key -> name of the video -> its value, NaN where it has none; on several ranks every rank must call it.

        Args:
            names: Video id -> name, of the videos of all ranks.
        """
        return {
            key: {names[number]: value for number, value in values.items()}
            for metric in self.metrics
            for key, values in metric.per_video().items()
        }

    @property
    def weights(self) -> dict[str, str]:
        """Network -> sha256 of its weights, of all metrics."""
        return {name: sha for metric in self.metrics for name, sha in metric.weights.items()}

    @property
    def conventions(self) -> dict[str, Any]:
        """Key -> settings of its metric: what makes two results different ones."""
        return {key: metric.settings for metric in self.metrics for key in metric.keys}


def evaluate_videos(
    presets: Sequence[VideoPreset],
    videos: Sequence[Video],
    *,
    reference: Sequence[Video] = (),
    reference_presets: Sequence[VideoPreset] | None = None,
    settings: Mapping[str, Any] | None = None,
    leave_out_bad: bool = False,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ProtocolResult:
    """Judge videos by some presets, in this process; each is decoded once for all of them.

    A video that breaks off while it is decoded, or that does not fit what it is judged by, does not end the evaluation:
    the others are looked through too, and all that are bad are named.

    Args:
        presets: Presets of different names; their metrics are reset first.
        videos: Videos of different names.
        reference: Videos that are judged likewise, for comparison: their keys end in ``_reference``.
        reference_presets: Presets of the same names for these, where they need others; only numbers of metrics that
            ``presets`` has too can be compared.
        settings: Of the evaluation, for the record and the hash.
        leave_out_bad: Leave bad videos out, which is recorded with the reason, instead of refusing all.
        left_out: ``generated`` and ``reference`` -> file -> why it was left out before, for the record.
        progress: Called with (videos done, videos in all).

    Raises:
        ConfigError: Two presets of one name.
        DataError: No videos, two of one name, or videos that cannot be judged; all are named. With ``leave_out_bad``:
            none of a set can be.
    """
    sets = {"generated": list(videos), "reference": list(reference)}
    _check(presets, sets)
    judges = {"generated": presets, "reference": presets if reference_presets is None else reference_presets}
    total = sum(map(len, sets.values()))
    entries: dict[str, dict[str, Entry]] = {preset.name: {} for preset in presets}
    per_clip: PerClip = {preset.name: {} for preset in presets}
    bad: dict[str, dict[str, str]] = {which: {} for which in sets}
    used: dict[str, list[Video]] = {}
    done = 0
    for which, members in sets.items():
        for preset in judges[which]:
            preset.reset()
        metrics = [metric for preset in judges[which] for metric in preset.metrics]
        names: dict[int, str] = {}
        for number, video in enumerate(members):
            try:
                if any(bad.values()) and not leave_out_bad:
                    _look_through(video)
                else:
                    score_videos(metrics, [video], [number])
                    names[number] = video.name
            except DataError as error:
                bad[which][_file(video)] = error.what
            done += 1
            if progress is not None:
                progress(done, total)
        used[which] = [video for number, video in enumerate(members) if number in names]
        for preset in judges[which] if names else ():
            found = preset.entries(unavailable=which == "generated")
            ending = "" if which == "generated" else REFERENCE
            entries[preset.name] |= {f"{key}{ending}": entry for key, entry in found.items()}
            per_clip[preset.name] |= {f"{key}{ending}": values for key, values in preset.per_clip(names).items()}
    _refuse(bad, {which: len(members) for which, members in sets.items()}, leave_out_bad)
    everything = {which: {**(left_out or {}).get(which, {}), **bad[which]} for which in sets}
    inputs = video_inputs(used["generated"], used["reference"], settings=settings, left_out=everything)
    return video_result(presets, entries, per_clip, inputs)


def _look_through(video: Video) -> None:
    """Decode a video that will not be judged, to find out whether it is bad too."""
    for _ in video.chunks():
        pass


def _refuse(bad: Mapping[str, Mapping[str, str]], counts: Mapping[str, int], leave_out: bool) -> None:
    """Raise one error for all bad videos, unless they were to be left out and some of each set are left."""
    if not any(bad.values()) or (
        leave_out and all(len(bad[which]) < count for which, count in counts.items() if count)
    ):
        return
    listed = [f"{which} {name}: {why}" for which, files in bad.items() for name, why in files.items()]
    raise DataError(
        f"{len(listed)} of {sum(counts.values())} videos cannot be judged: {'; '.join(listed)}",
        expected="whole videos that fit what they are judged by",
        fix="write them again, or ask for them to be left out",
    )


def _file(video: Video) -> str:
    return video.path.name if video.path is not None else video.name


def video_result(
    presets: Sequence[VideoPreset],
    entries: Mapping[str, dict[str, Entry]],
    per_clip: PerClip,
    inputs: Mapping[str, Any],
) -> ProtocolResult:
    """Numbers that presets gave, as a result.

    Args:
        presets: The presets.
        entries: Preset -> key -> entry: ``VideoPreset.entries``.
        per_clip: Preset -> key -> name -> value: ``VideoPreset.per_clip``.
        inputs: As ``video_inputs`` describes them.
    """
    return ProtocolResult(
        presets=dict(entries),
        floor={preset.name: {} for preset in presets},
        inputs={**inputs, "notes": {preset.name: list(preset.notes) for preset in presets}},
        conventions={preset.name: preset.conventions for preset in presets},
        weights={name: sha for preset in presets for name, sha in preset.weights.items()},
        per_clip=per_clip,
    )


def video_inputs(
    videos: Sequence[Video],
    reference: Sequence[Video] = (),
    *,
    settings: Mapping[str, Any] | None = None,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
) -> dict[str, Any]:
    """The ``inputs`` of a result: what was judged.

    Args:
        videos: All videos.
        reference: Those for comparison.
        settings: Of the evaluation.
        left_out: Set -> file -> why.
    """
    sets = {"generated": list(videos)} | ({"reference": list(reference)} if reference else {})
    sizes = sorted({(video.width, video.height) for members in sets.values() for video in members})
    return {
        "kind": "video",
        "fps": {which: sorted({round(video.fps, 3) for video in members}) for which, members in sets.items()},
        "resolution": list(sizes[0]) if len(sizes) == 1 else [list(size) for size in sizes],
        "seconds_per_clip": {which: _seconds(members) for which, members in sets.items()},
        "clips": {which: len(members) for which, members in sets.items()},
        "settings": dict(settings or {}),
        "left_out": {which: dict((left_out or {}).get(which, {})) for which in sets},
        "unmatched": _unmatched(videos, reference) if reference else {},
    }


def _check(presets: Sequence[VideoPreset], sets: Mapping[str, Sequence[Video]]) -> None:
    names = [preset.name for preset in presets]
    if len(set(names)) < len(names):
        raise ConfigError(f"two presets of one name among {', '.join(names)}")
    if not sets["generated"]:
        raise DataError("no videos to judge", expected="at least one")
    for which, members in sets.items():
        called = [video.name for video in members]
        twice = sorted({name for name in called if called.count(name) > 1})
        if twice:
            raise DataError(f"several {which} videos are called {', '.join(map(repr, twice))}", expected="one each")


def _unmatched(videos: Sequence[Video], reference: Sequence[Video]) -> dict[str, list[str]]:
    ours, theirs = ({video.name for video in members} for members in (videos, reference))
    return {"generated": sorted(ours - theirs), "reference": sorted(theirs - ours)}


def _seconds(videos: Sequence[Video]) -> dict[str, float | int]:
    """How long they say they are; files that do not say it are counted."""
    known = np.array([video.num_frames / video.fps for video in videos if video.num_frames])
    spread: dict[str, float | int] = {name: round(float(f(known)), 3) for name, f in _SPREAD.items() if len(known)}
    return spread if len(known) == len(videos) else spread | {"unknown": len(videos) - len(known)}

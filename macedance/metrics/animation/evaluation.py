"""One evaluation of generated videos against true ones, in the schema that every evaluation is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from macedance.errors import ConfigError, DataError
from macedance.metrics.animation.bundle import AnimationMetrics
from macedance.metrics.animation.pairs import together
from macedance.metrics.animation.windows import frame_count
from macedance.metrics.protocol_result import PerClip, ProtocolResult
from macedance.metrics.statistics import Entry
from macedance.vision.video import Video, match_videos, same_format

SETS = ("generated", "reference")
#: Called with (videos or pairs done, in all).
Progress = Callable[[int, int], None]


def evaluate_animation(
    generated: Sequence[Video],
    reference: Sequence[Video],
    metrics: AnimationMetrics,
    *,
    paired: bool = True,
    cut_to_shorter: bool = False,
    leave_out_bad: bool = False,
    left_out: Mapping[str, Mapping[str, str]] | None = None,
    progress: Progress | None = None,
) -> ProtocolResult:
    """Judge generated videos by true ones.

    Args:
        generated: Videos of one frame rate, and of one size for the metrics of pairs.
        reference: The true videos; of the same names where ``paired``.
        metrics: What to measure; forgets what it saw before.
        paired: Compare each video with the true one of its name. False: the two sets only, by FVD and KVD; sizes may
            then differ.
        cut_to_shorter: Of a pair of different lengths the common first frames count, which is noted; otherwise such
            pairs are refused.
        leave_out_bad: Leave videos that break off while they are decoded out, with their partners, instead of refusing
            the folders.
        left_out: ``generated`` and ``reference`` -> file name -> why it was left out before, for the record.
        progress: Called with (pairs or videos done, in all).

    Returns:
        Presets with ``fvd fvd_inf kvd ssim psnr lpips``, floors of ``fvd`` and ``kvd``, values of each clip.

    Raises:
        DataError: An empty set; names, lengths, frame rates or sizes that do not fit together, or videos that cannot be
            decoded; all are listed.
        ConfigError: Sets without pairs and without a network for FVD.
    """
    if not generated or not reference:
        raise DataError(
            f"{len(generated)} generated and {len(reference)} reference videos", expected="at least one of each"
        )
    metrics.reset()
    notes = _format_notes(generated, reference, resized=metrics.size is not None or not paired)
    if metrics.sets:
        # Refuses a frame rate below that of the windows before anything is decoded.
        metrics.sampling.offsets(generated[0].fps)
    elif not paired:
        raise ConfigError(
            f"nothing can be measured without pairs: {metrics.judges.absent.get('fvd', 'no network of FVD')}"
        )
    bad = _BadVideos(leave_out_bad)
    if paired:
        names, more = _judge_pairs(match_videos(generated, reference), metrics, cut_to_shorter, bad, progress)
        notes += more
    else:
        names = _judge_sets(generated, reference, metrics, bad, progress)
    bad.refuse(names, len(generated) + len(reference))
    everything = {which: {**(left_out or {}).get(which, {}), **bad.reasons[which]} for which in SETS}
    used = [
        [video for video in videos if video.name in names[which].values()]
        for which, videos in zip(SETS, (generated, reference), strict=True)
    ]
    return _result(used[0], used[1], metrics, names, paired, cut_to_shorter, notes, everything)


class _BadVideos:
    """Videos that broke off while they were decoded; unless they are left out, the rest is only looked through."""

    def __init__(self, leave_out: bool) -> None:
        self.leave_out = leave_out
        self.reasons: dict[str, dict[str, str]] = {which: {} for which in SETS}

    @property
    def only_look(self) -> bool:
        """Nothing will be measured any more: whoever is bad among the rest is yet to be found."""
        return not self.leave_out and any(self.reasons.values())

    def add(self, error: DataError, videos: Mapping[str, Video]) -> None:
        """A video, or the one of a pair that the error names; its partner goes with it."""
        for which, video in videos.items():
            here = len(videos) == 1 or str(error.where) in (str(video.path), video.name)
            partner = next(other for other in SETS if other != which)
            self.reasons[which][_file(video)] = error.what if here else f"the {partner} video of its name was left out"

    def refuse(self, names: Mapping[str, Mapping[int, str]], count: int) -> None:
        """Raise one error for all, unless they were to be left out and some are left."""
        if not any(self.reasons.values()) or (self.leave_out and all(names.values())):
            return
        listed = [
            f"{which} {name}: {why}"
            for which, reasons in self.reasons.items()
            for name, why in reasons.items()
            if not why.endswith("was left out")
        ]
        raise DataError(
            f"{len(listed)} of {count} videos cannot be decoded: {'; '.join(listed)}",
            fix="write them again, or ask for them to be left out",
        )


def _judge_pairs(
    pairs: Sequence[tuple[Video, Video]],
    metrics: AnimationMetrics,
    cut_to_shorter: bool,
    bad: _BadVideos,
    progress: Progress | None,
) -> tuple[dict[str, dict[int, str]], list[str]]:
    """Set -> clip -> name of those that were judged, and notes."""
    frames: dict[int, tuple[int, int]] = {}
    for clip, (x, y) in enumerate(pairs):
        try:
            frames[clip] = frame_count(x), frame_count(y)
        except DataError as error:
            bad.add(error, {"generated": x, "reference": y})
    notes = _length_notes([pairs[clip] for clip in frames], list(frames.values()), cut_to_shorter)
    names: dict[str, dict[int, str]] = {which: {} for which in SETS}
    for clip, counts in frames.items():
        x, y = pairs[clip]
        try:
            if bad.only_look:
                sum(1 for _ in together(x, y, num_frames=min(counts)))
            else:
                metrics.update_pair(x, y, clip, num_frames=min(counts))
                for which in SETS:
                    names[which][clip] = x.name
        except DataError as error:
            bad.add(error, {"generated": x, "reference": y})
        _tell(progress, clip + 1, len(pairs))
    return names, notes


def _judge_sets(
    generated: Sequence[Video],
    reference: Sequence[Video],
    metrics: AnimationMetrics,
    bad: _BadVideos,
    progress: Progress | None,
) -> dict[str, dict[int, str]]:
    """Set -> clip -> name of those that were judged; clips of the two sets have different numbers."""
    names: dict[str, dict[int, str]] = {which: {} for which in SETS}
    videos = [*((video, False) for video in generated), *((video, True) for video in reference)]
    for clip, (video, real) in enumerate(videos):
        try:
            if bad.only_look:
                sum(1 for _ in video.chunks())
            else:
                metrics.update_video(video, clip, real=real)
                names[SETS[real]][clip] = video.name
        except DataError as error:
            bad.add(error, {SETS[real]: video})
        _tell(progress, clip + 1, len(videos))
    return names


def _result(
    generated: Sequence[Video],
    reference: Sequence[Video],
    metrics: AnimationMetrics,
    names: Mapping[str, Mapping[int, str]],
    paired: bool,
    cut_to_shorter: bool,
    notes: list[str],
    left_out: Mapping[str, Mapping[str, str]],
) -> ProtocolResult:
    presets = metrics.compute(paired=paired)
    floors: dict[str, dict[str, Entry]] = {}
    for name, entries in presets.items():
        floors[name] = {key: entry.pop("floor") for key, entry in entries.items() if "floor" in entry}
    per_clip: PerClip = {}
    if paired:
        values = {
            key: {names["generated"][clip]: value for clip, value in clips.items()}
            for key, clips in metrics.per_clip().items()
        }
        per_clip = {preset.name: values for preset in metrics.presets}
        notes = [*notes, *_undefined_notes(values)]
    notes = [*notes, *_short_notes(metrics, names), *_window_notes(presets)]
    return ProtocolResult(
        presets=presets,
        floor=floors,
        inputs=_described(generated, reference)
        | {
            "settings": _settings(metrics, paired, cut_to_shorter),
            "left_out": {which: dict(left_out.get(which, {})) for which in SETS},
            "notes": {preset.name: notes for preset in metrics.presets},
        },
        conventions={preset.name: asdict(preset) | {"windows": asdict(metrics.sampling)} for preset in metrics.presets},
        weights=metrics.weights,
        per_clip=per_clip,
    )


def _settings(metrics: AnimationMetrics, paired: bool, cut_to_shorter: bool) -> dict[str, Any]:
    settings: dict[str, Any] = {"paired": paired}
    if paired:
        settings["cut_to_shorter"] = cut_to_shorter
        settings["size"] = None if metrics.size is None else list(metrics.size)
        for metric in metrics.pairs:
            settings |= {name: value for name, value in metric.settings.items() if name != "aggregate"}
    windows = metrics.sampling
    rate = "every frame" if windows.fps is None else f"{windows.fps:g} fps"
    settings["windows"] = f"{windows.per_clip} a clip, {windows.frames} frames, {rate}"
    return settings | asdict(metrics.reporting)


def _described(generated: Sequence[Video], reference: Sequence[Video]) -> dict[str, Any]:
    sets = dict(zip(SETS, (generated, reference), strict=True))
    sizes = {which: sorted({(v.width, v.height) for v in videos}) for which, videos in sets.items()}
    one = sizes["generated"] == sizes["reference"] and len(sizes["generated"]) == 1
    return {
        "kind": "animation",
        "fps": {which: sorted({round(v.fps, 3) for v in videos}) for which, videos in sets.items()},
        "resolution": list(sizes["generated"][0])
        if one
        else {which: [list(s) for s in of] for which, of in sizes.items()},
        "seconds_per_clip": {which: _seconds(videos) for which, videos in sets.items()},
        "clips": {which: len(videos) for which, videos in sets.items()},
        "unmatched": {
            which: sorted({v.name for v in videos} - {v.name for v in sets[SETS[1 - SETS.index(which)]]})
            for which, videos in sets.items()
        },
    }


def _seconds(videos: Sequence[Video]) -> dict[str, float] | None:
    seconds = np.array([video.num_frames / video.fps for video in videos if video.num_frames is not None])
    if not len(seconds):
        return None
    return {name: round(float(f(seconds)), 3) for name, f in (("min", np.min), ("median", np.median), ("max", np.max))}


def _format_notes(generated: Sequence[Video], reference: Sequence[Video], *, resized: bool) -> list[str]:
    """Refuses different frame rates, and different sizes unless the videos are resized, which is then noted."""
    videos = [*generated, *reference]
    if not resized:
        same_format(videos)
        return []
    rates: dict[float, list[str]] = {}
    for which, of in zip(SETS, (generated, reference), strict=True):
        for video in of:
            rates.setdefault(round(video.fps, 3), []).append(f"{which} {video.name}")
    if len(rates) > 1:
        listed = "; ".join(f"{fps:g} fps: {', '.join(names)}" for fps, names in sorted(rates.items()))
        raise DataError(
            f"videos of {len(rates)} frame rates: {listed}", expected="one", fix="bring them to one, as by ffmpeg -r"
        )
    sizes = {(v.width, v.height) for v in videos}
    if len(sizes) == 1:
        return []
    listed = ", ".join(f"{width} x {height}" for width, height in sorted(sizes))
    return [f"the videos have {len(sizes)} sizes: {listed}"]


def _length_notes(pairs: Sequence[tuple[Video, Video]], frames: Sequence[tuple[int, int]], cut: bool) -> list[str]:
    differ = [f"{x.name} ({a} and {b})" for (x, _), (a, b) in zip(pairs, frames, strict=True) if a != b]
    if not differ:
        return []
    listed = f"{len(differ)} of {len(pairs)} pairs differ in length (frames, generated and true): {', '.join(differ)}"
    if not cut:
        raise DataError(
            listed,
            expected="both of one length, or frames that do not belong together would be compared",
            fix="cut them alike, or ask for the common first frames",
        )
    return [f"{listed}; each was cut to the shorter of both"]


def _short_notes(metrics: AnimationMetrics, names: Mapping[str, Mapping[int, str]]) -> list[str]:
    notes = []
    for real, which in enumerate(SETS):
        short = [names[which][clip] for clip in metrics.too_short(real=bool(real))]
        if short:
            notes.append(
                f"{len(short)} of {len(names[which])} {which} videos are shorter than a window and not part of FVD and "
                f"KVD: {', '.join(short)}"
            )
    return notes


def _window_notes(presets: Mapping[str, Mapping[str, Entry]]) -> list[str]:
    """What n means where a clip has several windows."""
    for entries in presets.values():
        fvd = entries["fvd"]
        if fvd.get("n_clips") and fvd["n"] != fvd["n_clips"]:
            return [
                f"n of fvd and kvd are windows: {fvd['n']} of {fvd['n_clips']} clips. Windows of one clip are alike, "
                "and say less than as many clips; intervals and floors are by clips"
            ]
    return []


def _undefined_notes(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Clips that have no frame to compare, each set of them once."""
    without: dict[tuple[str, ...], list[str]] = {}
    for key, clips in values.items():
        undefined = tuple(name for name, value in clips.items() if np.isnan(value))
        if undefined:
            without.setdefault(undefined, []).append(key)
    return [f"no {', '.join(keys)} of {len(names)} clips: {', '.join(names)}" for names, keys in without.items()]


def _file(video: Video) -> str:
    return video.path.name if video.path is not None else video.name


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)

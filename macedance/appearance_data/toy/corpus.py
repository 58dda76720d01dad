"""What the toy corpus consists of: who dances what where, in which split, and its clips one after the other.

The plan is complete before anything is drawn, and each dance of it is made alone, so that several processes can share
the work and the same seed gives the same clips.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from macedance.appearance_data.media import encode_jpeg, encode_mp4
from macedance.appearance_data.samples import ClipFacts, raw_members
from macedance.appearance_data.toy.dances import excerpt, toy_dance
from macedance.appearance_data.toy.people import DressedBody, draw_person
from macedance.appearance_data.toy.rooms import draw_room
from macedance.appearance_data.toy.takes import Take, draw_staging, film
from macedance.errors import ConfigError
from macedance.rendering.pose_drawing import PALETTE

CLIPS_PER_DANCE = 6
#: A clip counts as travelling from this many widths of the body on.
TRAVELS = 1.0
_TRIES = 8
#: The last clips of the plan wear the seed's own stream each.
_PLAN, _CLIP, _PALETTE = 1, 2, 3


@dataclass(frozen=True)
class ToySettings:
    """How the toy corpus is filmed.

    Args:
        train: Clips of the split; ``val`` and ``test`` likewise.
        val: See there.
        test: See there.
        width: Pixels, even; ``height`` likewise.
        height: Pixels.
        frames: Of a clip.
        spare_frames: Frames after the clip, from which references are taken.
        fps: Frames per second.
        shifted: The second domain: darker rooms with other textures, a camera from higher up and from the side, and
            the colours of the pose drawing in another order.
        seed: Same seed, same bytes.

    Raises:
        ConfigError: A number out of range.
    """

    train: int = 1500
    val: int = 48
    test: int = 48
    width: int = 64
    height: int = 64
    frames: int = 9
    spare_frames: int = 6
    fps: float = 10.0
    shifted: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value, least in (
            ("train", self.train, 1), ("val", self.val, 0), ("test", self.test, 0), ("frames", self.frames, 2),
            ("spare_frames", self.spare_frames, 1), ("seed", self.seed, 0), ("width", self.width, 32),
            ("height", self.height, 32),
        ):  # fmt: skip
            if value < least:
                raise ConfigError(
                    f"{name} is {value}", where=f"--{name.replace('_', '-')}", expected=f"{least} or more"
                )
        if self.width % 2 or self.height % 2:
            raise ConfigError(f"pictures of {self.width} x {self.height}", expected="even sides")
        if not 1 <= self.fps <= 30:
            raise ConfigError(f"fps is {self.fps}", where="--fps", expected="1 to 30")
        if (self.frames + self.spare_frames) / self.fps > 20:
            raise ConfigError("a take longer than 20 seconds", expected="fewer frames or a higher fps")


@dataclass(frozen=True)
class PlannedDance:
    """One dancer with one song, and how many clips are cut from the dance."""

    name: str
    number: int
    split: str
    clips: int
    seed: int


def plan_toy_corpus(settings: ToySettings) -> list[PlannedDance]:
    """Dances of all splits; each has a dancer, a room and a song of its own, so that splits share none of them."""
    rng = np.random.default_rng([settings.seed, int(settings.shifted), _PLAN])
    dances: list[PlannedDance] = []
    for split in ("train", "val", "test"):
        left = getattr(settings, split)
        while left > 0:
            # Held-out clips show as many people as they can.
            clips = min(left, CLIPS_PER_DANCE if split == "train" else 2)
            number = len(dances)
            prefix = "shifted" if settings.shifted else "toy"
            dances.append(PlannedDance(f"{prefix}-{number:04d}", number, split, clips, int(rng.integers(2**31))))
            left -= clips
    return dances


def toy_palette(settings: ToySettings) -> tuple[tuple[int, int, int], ...] | None:
    """Colours of the pose drawing; None for the usual order."""
    if not settings.shifted:
        return None
    # The same for every seed: it is one domain.
    order = np.random.default_rng(_PALETTE).permutation(len(PALETTE))
    return tuple(PALETTE[place] for place in order)


def make_clips(planned: PlannedDance, settings: ToySettings) -> Iterator[tuple[str, ClipFacts, dict[str, bytes]]]:
    """(key, facts, members) of each clip of a dance."""
    rng = np.random.default_rng([planned.seed, _CLIP])
    person = draw_person(planned.name, rng)
    body = DressedBody(person)
    song, motion = toy_dance(planned.name, planned.number, planned.seed, int(rng.integers(2**31)))
    length = settings.frames + settings.spare_frames
    room = draw_room(rng, shifted=settings.shifted)
    travelling = planned.split != "train"
    for clip in range(planned.clips):
        start_s, part = excerpt(motion, float(rng.random()), length, settings.fps)
        for _ in range(_TRIES):
            staging = draw_staging(rng, travels=travelling or rng.random() < 0.6, shifted=settings.shifted)
            take = film(
                person, body, part, room, staging, width=settings.width, height=settings.height,
                clip_frames=settings.frames,
            )  # fmt: skip
            if not travelling or take.travel >= TRAVELS:
                break
        facts = _facts(settings, take, person.prompt, song, start_s, planned.name)
        yield f"{planned.name}_{clip:02d}", facts, _members(facts, take, settings)


def _facts(settings: ToySettings, take: Take, prompt: str, song: str, start_s: float, person: str) -> ClipFacts:
    rows, columns = (np.flatnonzero(take.mask_THW.any(axis=(0, axis))) for axis in (2, 1))
    box = None
    if len(rows):
        box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
    spare = range(settings.frames, settings.frames + settings.spare_frames)
    return ClipFacts(
        fps=settings.fps,
        frames=len(take.video_THW3),
        height=settings.height,
        width=settings.width,
        prompt=prompt,
        song=song,
        start_s=start_s,
        source="rendered",
        licence="Apache-2.0",
        person=person,
        reference_times_s=tuple(frame / settings.fps for frame in spare),
        person_box=box,
        palette=toy_palette(settings),
    )


def _members(facts: ClipFacts, take: Take, settings: ToySettings) -> dict[str, bytes]:
    return raw_members(
        replace(facts),
        encode_mp4(take.video_THW3, settings.fps),
        keypoints_TK3=take.keypoints_TK3,
        reference=encode_jpeg(take.video_THW3[-1]),
        mask_THW=take.mask_THW,
    )

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from macedance.demo.corpus import CLIP_SECONDS, make_clips, plan_corpus
from macedance.demo.songs import GENRES
from macedance.errors import ConfigError
from macedance.metrics.functional.beat import beat_alignment, motion_beats


def clips_by_split(num_clips: int, seed: int = 0) -> Counter[str]:
    return Counter(song.split for song in plan_corpus(num_clips, seed) for _ in song.clips)


def test_default_plan_has_400_clips_in_three_splits_with_all_genres() -> None:
    plan = plan_corpus()
    counts = clips_by_split(400)
    assert sum(counts.values()) == 400
    assert counts["test"] >= 90
    assert counts["train"] == pytest.approx(260, abs=12)
    assert counts["val"] == pytest.approx(40, abs=8)
    for split in ("train", "val", "test"):
        assert {song.spec.genre for song in plan if song.split == split} == set(GENRES)


@pytest.mark.parametrize("num_clips", [16, 17, 23, 64, 401, 800])
@pytest.mark.parametrize("seed", [0, 7])
def test_plan_has_as_many_clips_as_asked_and_no_empty_split(num_clips: int, seed: int) -> None:
    counts = clips_by_split(num_clips, seed)
    assert sum(counts.values()) == num_clips
    assert min(counts[split] for split in ("train", "val", "test")) > 0
    if num_clips >= 400:
        assert counts["test"] >= 90


def test_songs_and_keys_are_unique_and_no_song_is_in_two_splits() -> None:
    plan = plan_corpus(120)
    assert len({song.spec.name for song in plan}) == len(plan)
    assert len({(song.spec.genre, song.spec.seed) for song in plan}) == len(plan)
    keys = [clip.key for song in plan for clip in song.clips]
    assert len(set(keys)) == len(keys)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in keys)


def test_clips_are_whole_seconds_on_whole_frames_inside_their_song() -> None:
    for song in plan_corpus(200):
        assert len({clip.dancer_seed for clip in song.clips}) == len(song.clips)
        for clip in song.clips:
            assert clip.frames / 30 in CLIP_SECONDS
            assert clip.start_s * 30 == pytest.approx(round(clip.start_s * 30), abs=1e-6)
            assert clip.start_s >= 0
            assert clip.start_s + clip.frames / 30 <= song.spec.duration_s


def test_plan_follows_from_its_seed() -> None:
    assert plan_corpus(40, 1) == plan_corpus(40, 1)
    assert plan_corpus(40, 1) != plan_corpus(40, 2)


@pytest.mark.parametrize(("num_clips", "seed"), [(15, 0), (0, 0), (-3, 0), (16, -1)])
def test_too_few_clips_or_a_negative_seed_is_refused(num_clips: int, seed: int) -> None:
    with pytest.raises(ConfigError, match="expected"):
        plan_corpus(num_clips, seed)


def test_made_clips_carry_the_beats_of_their_excerpt() -> None:
    planned = plan_corpus(16)[0]
    song, clips = make_clips(planned)
    assert len(clips) == len(planned.clips)
    for clip, motion in clips:
        assert motion.num_frames == clip.frames
        assert motion.genre == planned.spec.genre
        beats_s = motion.music_beats_s
        assert beats_s is not None
        assert len(beats_s) > 5
        assert beats_s.min() >= 0
        assert beats_s.max() < clip.frames / 30
        nearest = np.abs(song.beats_s[:, None] - (beats_s + clip.start_s)[None]).min(axis=0)
        assert nearest.max() < 1e-6


def test_about_half_of_the_clips_start_with_an_eight_count() -> None:
    from macedance.demo.songs import make_song

    planned = plan_corpus(16)
    hits, total = 0, 0
    for song in planned:
        made = make_song(song.spec)
        beat_s = float(np.diff(made.beats_s)[0])
        for clip in song.clips:
            late = (made.eight_counts_s - 0.5 * beat_s - clip.start_s) * 30
            hits += bool((np.abs(late - 0.5) < 0.6).any())
            total += 1
    assert 0.2 < hits / total < 0.8


def test_reference_dances_follow_their_own_beats_and_not_those_of_other_songs() -> None:
    own, other, dances = [], [], []
    for planned in plan_corpus(32):
        for _, motion in make_clips(planned)[1]:
            dances.append((planned.spec.name, motion, motion_beats(motion.joint_positions(), 30.0)))
    for name, motion, beats in dances:
        for other_name, other_motion, _ in dances:
            music = other_motion.music_beats_s
            assert music is not None
            if other_motion is motion:
                own.append(beat_alignment(music, beats))
            elif other_name != name:
                other.append(beat_alignment(music[music < motion.duration_s], beats))
    assert np.mean(own) > 0.85
    assert np.mean(own) > np.mean(other) + 0.3

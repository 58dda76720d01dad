"""The text of a BVH file: its skeleton and its rows of numbers, checked as far as text can be.

Shapes: T frames, C channels (all joints together). Nothing here knows what a joint means; ``bvh.read_bvh`` does.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from macedance.errors import DataError

Array = NDArray[np.float64]

NOT_BVH = "a BVH file: the word HIERARCHY, a skeleton, the word MOTION, then one row of numbers per frame"
_STRUCTURE = "ROOT, JOINT, End Site, OFFSET, CHANNELS or a brace"


@dataclass
class BvhJoint:
    """A joint as the file declares it; ``tip`` is the offset of its End Site."""

    name: str
    parent: int
    offset: list[float] | None = None
    channels: list[str] = field(default_factory=list)
    tip: list[float] | None = None


class _Tokens:
    """The words of the HIERARCHY section with their line numbers, for messages that name the line."""

    def __init__(self, text: str, path: Path) -> None:
        self.path = path
        spaced = text.replace("{", " { ").replace("}", " } ")
        self.items = [(word, number) for number, line in enumerate(spaced.split("\n"), 1) for word in line.split()]
        self.next = 0

    def peek(self) -> str:
        return self.items[self.next][0] if self.next < len(self.items) else ""

    def take(self) -> str:
        word = self.peek()
        if not word:
            raise DataError("the skeleton ends in the middle", where=self.path, expected=NOT_BVH)
        self.next += 1
        return word

    def fail(self, what: str, expected: str) -> DataError:
        line = self.items[max(self.next - 1, 0)][1]
        return DataError(what, where=f"{self.path} line {line}", expected=expected)

    def number(self, of: str) -> float:
        word = self.take()
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise self.fail(f"{of} is '{word[:40]}'", "a finite number")
        return value

    def numbers(self, count: int, of: str) -> list[float]:
        return [self.number(of) for _ in range(count)]


def parse_hierarchy(text: str, path: Path) -> list[BvhJoint]:
    """The joints of the text before MOTION, parents before children; DataError where it is not a skeleton."""
    tokens = _Tokens(text, path)
    tokens.take()
    joints: list[BvhJoint] = []
    stack: list[int] = []
    end_of: int | None = None
    while tokens.peek():
        word = tokens.take().upper()
        if word in ("ROOT", "JOINT"):
            if (word == "ROOT") != (not joints):
                raise tokens.fail(f"a {word} where none may stand", "one ROOT that holds every JOINT")
            if word == "JOINT" and not stack:
                raise tokens.fail("a JOINT outside of the skeleton", "every JOINT inside the ROOT's braces")
            name: list[str] = []
            while tokens.peek() not in ("{", ""):
                name.append(tokens.take())
            tokens.take()
            joints.append(BvhJoint(" ".join(name) or f"joint{len(joints)}", stack[-1] if stack else -1))
            stack.append(len(joints) - 1)
        elif word == "END" and stack and end_of is None:
            while tokens.peek() not in ("{", ""):
                tokens.take()
            tokens.take()
            end_of = stack[-1]
        elif word == "OFFSET" and stack:
            offset = tokens.numbers(3, "an OFFSET")
            if end_of is None:
                joints[stack[-1]].offset = offset
            elif joints[end_of].tip is None:
                joints[end_of].tip = offset
        elif word == "CHANNELS" and stack and end_of is None:
            count = tokens.number("the number of CHANNELS")
            channels = [tokens.take().lower() for _ in range(int(count))]
            wrong = [c for c in channels if not re.fullmatch(r"[xyz](position|rotation)", c)]
            if wrong:
                raise tokens.fail(f"channel '{wrong[0][:40]}'", "Xposition ... Zrotation, as many as CHANNELS says")
            joints[stack[-1]].channels = channels
        elif word == "}" and (end_of is not None or stack):
            if end_of is not None:
                end_of = None
            else:
                stack.pop()
        else:
            raise tokens.fail(f"'{word[:40]}' in the skeleton", _STRUCTURE)
    if stack or not joints:
        raise DataError("the skeleton is not closed", where=path, expected="as many } as {, and at least a ROOT")
    for joint in joints:
        if joint.offset is None:
            raise DataError(f"joint '{joint.name}' has no OFFSET", where=path, expected="three numbers for every joint")
    return joints


def _frame_rate(word: str, path: Path) -> float:
    """Frames per second of a frame time; `.0333` and `.0083333` mean 30 and 120, cut off by the writer."""
    try:
        frame_time = float(word)
    except ValueError:
        frame_time = math.nan
    if not (math.isfinite(frame_time) and frame_time > 0):
        raise DataError(f"frame time is '{word[:40]}'", where=path, expected="seconds per frame, above 0")
    fps = 1.0 / frame_time
    mantissa, _, exponent = word.lower().partition("e")
    half_digit = 0.5 * 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    slack = half_digit * 1.001 / frame_time**2
    whole = round(fps)
    # One whole rate within the last printed digit: that is what was meant. Several: the number is too coarse to tell.
    return float(whole) if whole > 0 and abs(fps - whole) <= slack < 0.5 else fps


def parse_frames(text: str, first_line: int, num_channels: int, path: Path) -> tuple[Array, float]:
    """The numbers (T, C) of the text after MOTION and the frames per second; DataError where they do not fit."""
    header = re.match(r"\s*Frames\s*:\s*(\S+)\s+Frame\s+Time\s*:\s*(\S+)[^\n]*", text, flags=re.IGNORECASE)
    if header is None:
        raise DataError(
            "no 'Frames:' and 'Frame Time:' after MOTION", where=path, expected=NOT_BVH, fix="export the file again"
        )
    if not re.fullmatch(r"\d{1,9}", header.group(1)):
        raise DataError(f"number of frames is '{header.group(1)[:40]}'", where=path, expected="a whole number above 0")
    frames, fps = int(header.group(1)), _frame_rate(header.group(2), path)
    if frames == 0:
        raise DataError("the file has zero frames", where=path, expected="at least one frame of motion")
    lines = text[header.end() :].split("\n")
    offset = first_line + text[: header.end()].count("\n")
    words: list[str] = []
    for number, line in enumerate(lines):
        row = line.split()
        if row and len(row) != num_channels:
            missing = len(words) // num_channels == frames - 1 and not any(rest.strip() for rest in lines[number + 1 :])
            what = "the last frame is cut off: it has" if missing and len(row) < num_channels else "a frame has"
            raise DataError(
                f"{what} {len(row)} numbers", where=f"{path} line {offset + number}",
                expected=f"{num_channels}, one for each channel of the skeleton", fix="export the file again",
            )  # fmt: skip
        words += row
    rows = len(words) // num_channels
    if rows != frames:
        what = "is cut off: it" if rows < frames else "is longer than stated: it"
        raise DataError(
            f"the motion {what} has {rows} frames", where=path, expected=f"{frames}, as 'Frames:' says",
            fix="export or download the file again",
        )  # fmt: skip
    try:
        values = np.array(words, dtype=np.float64)
    except ValueError:
        values = np.array([_number_or_nan(word) for word in words])
    # No dancer is that far away: such a number would overflow single precision later, without the file's name.
    bad = np.flatnonzero(~(np.abs(values) < 1e12))
    if len(bad):
        raise DataError(
            f"frame {bad[0] // num_channels} holds '{words[bad[0]][:40]}'",
            where=path,
            expected="finite numbers of a sane size",
        )
    return values.reshape(frames, num_channels), fps


def _number_or_nan(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan

"""Which joint of a foreign skeleton is which: by name, side and place in the hierarchy.

Covers the naming of CMU's BVH conversions, MotionBuilder / Mixamo / Rokoko, 3ds Max Biped, Unity, Unreal, Poser / Daz,
VRM, SMPL and SMPL-X, Animated Drawings' sets, and our own files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from macedance.errors import DataError, MaceDanceError

#: Parts of a limb and the names they go by, without side, prefix and punctuation; the first that exists is taken.
LIMB_NAMES: dict[str, tuple[str, ...]] = {
    "hip": ("upleg", "upperleg", "thigh", "hip", "femur", "hipjoint", "leg"),
    "knee": ("knee", "lowerleg", "lowleg", "shin", "calf", "tibia", "leg", "kneejoint"),
    "ankle": ("ankle", "foot", "anklejoint", "feet"),
    "toe": ("toebase", "toes", "toe", "ball", "toe0", "toe1", "bigtoe", "forefoot", "foot", "footindex", "toeend"),
    "shoulder": ("upperarm", "uparm", "shldr", "arm", "humerus", "shoulder", "shoulderjoint"),
    "collar": ("collar", "clavicle", "clavical", "collarbone", "inshoulder", "scapula", "shoulder"),
    "elbow": ("elbow", "forearm", "lowerarm", "lowarm", "radius", "elbowjoint"),
    "wrist": ("wrist", "hand", "wristjoint"),
    "hand": (
        "handmiddle1", "middle1", "middleproximal", "handmiddle", "fingers", "fingerbase", "inhandmiddle", "knuckle",
        "handend", "handindex1", "index1", "indexproximal", "hand", "finger1", "finger0", "handindex",
    ),
}  # fmt: skip

#: A retargeting cannot do without these, on both sides.
REQUIRED = ("hip", "knee", "ankle", "shoulder", "elbow")
_NECK, _HEAD = ("neck", "lowerneck", "upperneck", "neckbase"), ("head", "headbase", "skull")

_PREFIX = re.compile(
    r"^(?i:mixamorig\d*|bip\d*|j_bip_c|j_bip|cc_base|character\d*|valvebiped|armature|m_avg|f_avg|def|jnt|joint|bone)"
    r"(?=[\s_.\-]|[A-Z])[\s_.\-]*"
)
_KNOWN = frozenset(name for names in LIMB_NAMES.values() for name in names) | {"thumb", "hipjoint"}


@dataclass(frozen=True)
class BodyJoints:
    """Numbers of the source joints that make up a body.

    Attributes:
        pelvis: The joint that holds both legs.
        trunk: Joints after the pelvis up to the chest, which holds both arms; may be empty.
        necks: Joints between chest and head; may be empty.
        head: The head, or None.
        limbs: (part, side) -> joint, parts as in LIMB_NAMES, side "left" or "right"; only those that exist.
    """

    pelvis: int
    trunk: tuple[int, ...]
    necks: tuple[int, ...]
    head: int | None
    limbs: dict[tuple[str, str], int]


def split_name(name: str) -> tuple[str | None, str]:
    """Side ("left", "right" or None) and bare lower-case name of a joint: "mixamorig:LeftUpLeg" -> left, "upleg"."""
    bare = _PREFIX.sub("", re.split(r"[:|]", name)[-1].strip())
    word = re.search(r"left|right", bare, flags=re.IGNORECASE)
    side: str | None = None
    if word:
        side, bare = word.group(0).lower(), bare[: word.start()] + bare[word.end() :]
    else:
        letter = re.search(r"(?:^|[\s_.\-])([lLrR])(?=$|[\s_.\-])", bare) or re.match(r"([lLrR])(?=[A-Z])", bare)
        if letter is None and bare[1:].lower() in _KNOWN:
            letter = re.match(r"([lLrR])", bare)
        if letter:
            side = "left" if letter.group(1).lower() == "l" else "right"
            bare = bare[: letter.start(1)] + bare[letter.end(1) :]
    return side, re.sub(r"[^a-z0-9]", "", bare.lower())


def find_body(
    names: Sequence[str], parents: Sequence[int], where: str | Path, mapping: Mapping[str, str] | None = None
) -> BodyJoints:
    """Find pelvis, trunk, neck, head, arms and legs.

    Args:
        names: Joint names, parents before children.
        parents: Number of each joint's parent, -1 for the root.
        where: File, for messages.
        mapping: Joints to use whatever their names say: "left knee" -> name in the file; parts as in LIMB_NAMES.

    Raises:
        DataError: A required part is missing: it is named, with the names it was looked for under and the joints
            that exist. A mapping that names a joint or part that does not exist.
    """
    ancestors = [_ancestors(parents, joint) for joint in range(len(names))]
    given = _given(names, mapping or {}, where)
    split = [split_name(name) for name in names]
    limbs: dict[tuple[str, str], int] = dict(given)
    for side in ("left", "right"):
        own: dict[str, int] = {}
        for joint, (joint_side, bare) in enumerate(split):
            if joint_side == side:
                own.setdefault(bare, joint)
        # From the end of a limb to its start: a "Shoulder" is the upper arm unless there is an "Arm" for that.
        for part in ("ankle", "knee", "hip", "elbow", "shoulder", "wrist", "collar", "toe", "hand"):
            if (part, side) in given:
                continue
            found = _pick(part, side, own, limbs, ancestors)
            if found is not None:
                limbs[(part, side)] = found
    missing = [f"{side} {part}" for part in REQUIRED for side in ("left", "right") if (part, side) not in limbs]
    if missing:
        raise _missing(missing, names, where)
    return _body(names, parents, split, ancestors, limbs, where)


def _ancestors(parents: Sequence[int], joint: int) -> list[int]:
    """The joint itself, its parent, and so on to the root."""
    chain = [joint]
    while parents[chain[-1]] >= 0:
        chain.append(parents[chain[-1]])
    return chain


def _given(names: Sequence[str], mapping: Mapping[str, str], where: str | Path) -> dict[tuple[str, str], int]:
    given: dict[tuple[str, str], int] = {}
    for key, name in mapping.items():
        side, _, part = key.partition(" ")
        if side not in ("left", "right") or part not in LIMB_NAMES:
            raise DataError(
                f"the joint mapping names '{key}'", where=where,
                expected="'left' or 'right' and one of " + ", ".join(LIMB_NAMES),
            )  # fmt: skip
        if name not in names:
            raise DataError(f"the joint mapping asks for '{name}'", where=where, expected=_listing(names))
        given[(part, side)] = list(names).index(name)
    return given


def _pick(
    part: str, side: str, own: dict[str, int], limbs: dict[tuple[str, str], int], ancestors: list[list[int]]
) -> int | None:
    """The first of the part's names that exists, is not taken, and lies on the right side of the limb's other parts."""
    above = {"toe": "ankle", "hand": "wrist", "wrist": "elbow"}
    below = {"knee": "ankle", "hip": "knee", "shoulder": "elbow", "collar": "shoulder"}
    taken = {joint for (_, other), joint in limbs.items() if other == side}
    for name in LIMB_NAMES[part]:
        joint = own.get(name)
        if joint is None or joint in taken:
            continue
        parent = limbs.get((above.get(part, ""), side))
        child = limbs.get((below.get(part, ""), side))
        if part in above and (parent is None or parent not in ancestors[joint][1:]):
            continue
        if child is not None and joint not in ancestors[child][1:]:
            continue
        return joint
    return None


def _body(
    names: Sequence[str],
    parents: Sequence[int],
    split: list[tuple[str | None, str]],
    ancestors: list[list[int]],
    limbs: dict[tuple[str, str], int],
    where: str | Path,
) -> BodyJoints:
    pelvis = _common(ancestors, limbs[("hip", "left")], limbs[("hip", "right")])
    arms = [limbs.get(("collar", side), limbs[("shoulder", side)]) for side in ("left", "right")]
    chest = _common(ancestors, *arms)
    if pelvis is None or chest is None or pelvis not in ancestors[chest]:
        raise DataError(
            "the arms do not hang on the joint that holds the legs", where=where,
            expected="a pelvis above both legs, and a chest, joined to it, above both arms",
        )  # fmt: skip
    trunk = ancestors[chest][: ancestors[chest].index(pelvis)][::-1]
    middle = [joint for joint, (side, _) in enumerate(split) if side is None and chest in ancestors[joint][1:]]
    heads = [joint for joint in middle if split[joint][1] in _HEAD]
    necks = [joint for joint in middle if re.sub(r"\d", "", split[joint][1]) in _NECK]
    head = heads[0] if heads else None
    if head is not None:
        necks = [joint for joint in ancestors[head][1:][::-1] if chest in ancestors[joint][1:]]
    return BodyJoints(pelvis, tuple(trunk), tuple(necks), head, limbs)


def _common(ancestors: list[list[int]], first: int, second: int) -> int | None:
    """The lowest joint strictly above both."""
    return next((joint for joint in ancestors[first][1:] if joint in ancestors[second][1:]), None)


def _listing(names: Sequence[str]) -> str:
    shown = ", ".join(names[:40])
    return f"one of the file's joints ({shown}{', ...' if len(names) > 40 else ''})"


def _missing(missing: list[str], names: Sequence[str], where: str | Path) -> MaceDanceError:
    parts = sorted({entry.split(" ", 1)[1] for entry in missing}, key=REQUIRED.index)
    what = "the skeleton has no feet" if "ankle" in parts else "the skeleton lacks joints"
    looked = "; ".join(f"{part}: {', '.join(LIMB_NAMES[part])}" for part in parts)
    return DataError(
        f"{what}: none found for {', '.join(missing)} among its joints ({', '.join(names[:60])})",
        where=where,
        expected=f"left and right joints under one of these names: {looked}",
        fix="rename the joints, or pass a joint mapping",
    )

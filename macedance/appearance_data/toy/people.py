"""People drawn by lot: build, clothes and hair on the mannequin's mesh.

Shapes: V vertices, F triangles, J = 24 joints. Metres; colours are display values in [0, 1].
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from macedance.motion.body_mesh import GROUP_NAMES, Mesh, mannequin_mesh, rest_joints
from macedance.motion.skeleton import NUM_JOINTS, PARENTS

Colour = tuple[float, float, float]

_SKINS: tuple[Colour, ...] = (
    (0.96, 0.80, 0.70), (0.90, 0.72, 0.60), (0.80, 0.60, 0.46), (0.66, 0.46, 0.33), (0.48, 0.32, 0.23),
    (0.34, 0.23, 0.18),
)  # fmt: skip
_HAIRS: dict[str, Colour] = {
    "black": (0.07, 0.06, 0.07), "brown": (0.28, 0.17, 0.10), "blond": (0.85, 0.70, 0.38), "red": (0.62, 0.24, 0.10),
    "grey": (0.62, 0.62, 0.64), "blue": (0.16, 0.30, 0.75), "pink": (0.92, 0.42, 0.62),
}  # fmt: skip
_CLOTHES: dict[str, Colour] = {
    "red": (0.86, 0.18, 0.17), "orange": (0.95, 0.52, 0.13), "yellow": (0.96, 0.83, 0.22), "green": (0.22, 0.62, 0.28),
    "teal": (0.10, 0.56, 0.58), "blue": (0.18, 0.36, 0.84), "navy": (0.12, 0.15, 0.36), "purple": (0.50, 0.27, 0.72),
    "pink": (0.93, 0.47, 0.66), "white": (0.95, 0.95, 0.93), "grey": (0.52, 0.53, 0.56), "black": (0.11, 0.11, 0.13),
    "brown": (0.44, 0.29, 0.18), "beige": (0.84, 0.75, 0.60),
}  # fmt: skip
_SLEEVES = ("no sleeves", "short sleeves", "long sleeves")
_LEGS = ("trousers", "shorts")
_PATTERNS = ("plain", "striped", "two-tone")
#: Where a sleeve ends on the way from shoulder to wrist, and shorts on the way from hip to ankle, in bones.
_SLEEVE_ENDS = {"no sleeves": 0.0, "short sleeves": 0.6, "long sleeves": 1.9}
_ARM_JOINTS = ((13, 16, 18, 20), (14, 17, 19, 21))
_THIGHS, _SHINS = (1, 2), (4, 5)


@dataclass(frozen=True)
class Person:
    """One person's looks.

    Attributes:
        name: Unique in a corpus.
        height: Against the skeleton's 1.
        girth: Thickness of trunk and limbs against the mannequin's, about 1.
        limbs: Length of arms and legs against the skeleton's, about 1.
        shoulders: Breadth of the shoulders likewise.
        head: Size of the head likewise.
        skin, hair, top, bottom, shoes, accent: Colours; the accent is the pattern's second one.
        hair_volume: Of the hair against the mannequin's.
        sleeves, legs, pattern: Of the clothes.
        prompt: What one would say of the person.
    """

    name: str
    height: float
    girth: float
    limbs: float
    shoulders: float
    head: float
    skin: Colour
    hair: Colour
    top: Colour
    bottom: Colour
    shoes: Colour
    accent: Colour
    hair_volume: float
    sleeves: str
    legs: str
    pattern: str
    prompt: str


def draw_person(name: str, rng: np.random.Generator) -> Person:
    """A person drawn by lot."""
    colours = list(_CLOTHES)
    top, bottom, shoes, accent = (colours[i] for i in rng.choice(len(colours), 4, replace=False))
    hair = list(_HAIRS)[int(rng.choice(len(_HAIRS), p=[0.24, 0.22, 0.18, 0.12, 0.10, 0.07, 0.07]))]
    sleeves = _SLEEVES[int(rng.choice(3, p=[0.2, 0.45, 0.35]))]
    legs = _LEGS[int(rng.choice(2, p=[0.65, 0.35]))]
    pattern = _PATTERNS[int(rng.choice(3, p=[0.5, 0.25, 0.25]))]
    with_accent = "" if pattern == "plain" else f" and {accent}"
    return Person(
        name=name,
        height=float(rng.uniform(0.92, 1.08)),
        girth=float(rng.uniform(1.0, 1.55)),
        limbs=float(rng.uniform(0.92, 1.08)),
        shoulders=float(rng.uniform(0.9, 1.15)),
        head=float(rng.uniform(1.0, 1.25)),
        skin=_SKINS[int(rng.integers(len(_SKINS)))],
        hair=_HAIRS[hair],
        top=_varied(_CLOTHES[top], rng),
        bottom=_varied(_CLOTHES[bottom], rng),
        shoes=_varied(_CLOTHES[shoes], rng),
        accent=_varied(_CLOTHES[accent], rng),
        hair_volume=float(rng.uniform(1.0, 1.25)),
        sleeves=sleeves,
        legs=legs,
        pattern=pattern,
        prompt=f"a dancer with {hair} hair in a {pattern} {top}{with_accent} top with {sleeves}, {bottom} {legs} and "
        f"{shoes} shoes",
    )


def _varied(colour: Colour, rng: np.random.Generator) -> Colour:
    red, green, blue = np.clip(np.array(colour) + rng.uniform(-0.05, 0.05, 3), 0.03, 0.97)
    return float(red), float(green), float(blue)


def proportions(person: Person) -> np.ndarray:
    """Length (24,) of each joint's bone from its parent against the skeleton's."""
    bones = np.full(NUM_JOINTS, person.height)
    bones[[4, 5, 7, 8, 18, 19, 20, 21, 22, 23]] *= person.limbs
    bones[[13, 14, 16, 17]] *= person.shoulders
    return bones


class DressedBody:
    """The mannequin with a person's build and clothes.

    Attributes:
        faces_F3: Triangles, int32.
        colours_V3: Display colours of the vertices, float32.
    """

    def __init__(self, person: Person) -> None:
        shape = _shape()
        mesh = shape.mesh
        grown = shape.axes_V3 + person.girth * (mesh.vertices_V3 - shape.axes_V3)
        self._vertices_V3 = np.where(shape.fleshy_V[:, None], grown, mesh.vertices_V3)
        head = rest_joints()[15]
        size_V = np.where(shape.head_V, person.head, 1.0)
        size_V = np.where(shape.hair_V, person.head * person.hair_volume, size_V)
        self._vertices_V3 = (head + size_V[:, None] * (self._vertices_V3 - head)).astype(np.float32)
        self.faces_F3 = mesh.faces_F3
        self.colours_V3 = _colours(person, shape)

    def pose(self, joints_TJ3: np.ndarray, rotations_TJ33: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Vertices and unit normals, both (T, V, 3) float32, by linear blend skinning of all vertices at once."""
        shape = _shape()
        rest_J3 = rest_joints().astype(np.float32)
        shift_TJ3 = joints_TJ3 - np.einsum("tjab,jb->tja", rotations_TJ33, rest_J3)
        frames = len(joints_TJ3)
        # One matrix product blends rotations and shifts of all vertices: (V, J) x (J, T 12).
        parts = np.concatenate([rotations_TJ33, shift_TJ3[..., None]], axis=-1, dtype=np.float32)
        blended = shape.weights_VJ @ parts.transpose(1, 0, 2, 3).reshape(NUM_JOINTS, frames * 12)
        blended = blended.reshape(-1, frames, 3, 4)
        vertices = np.einsum("vtab,vb->tva", blended[..., :3], self._vertices_V3) + blended[..., 3].transpose(1, 0, 2)
        normals = np.einsum("vtab,vb->tva", blended[..., :3], shape.mesh.normals_V3)
        normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-8)
        return np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(normals, np.float32)


@dataclass(frozen=True)
class _Shape:
    """What all people share: the mesh, and where its vertices lie on the body.

    Attributes:
        mesh: In the rest pose.
        weights_VJ: Share of each joint in each vertex, float32.
        axes_V3: Nearest point of the vertex's own bone.
        fleshy_V: Whether the person's girth makes it thicker.
        head_V, hair_V: Whether it belongs to the head, and to the hair.
        arm_V: How far along the arm it lies, in bones from the shoulder; -1 elsewhere.
        shin_V: Whether it is bare under shorts.
    """

    mesh: Mesh
    weights_VJ: np.ndarray
    axes_V3: np.ndarray
    fleshy_V: np.ndarray
    head_V: np.ndarray
    hair_V: np.ndarray
    arm_V: np.ndarray
    shin_V: np.ndarray


@lru_cache(maxsize=1)
def _shape() -> _Shape:
    mesh, rest = mannequin_mesh(), rest_joints()
    count = len(mesh.vertices_V3)
    weights = np.zeros((count, NUM_JOINTS), dtype=np.float32)
    for place in range(4):
        np.add.at(weights, (np.arange(count), mesh.joints_V4[:, place]), mesh.weights_V4[:, place])
    owner = mesh.joints_V4[:, 0]
    child = [next((j for j in range(NUM_JOINTS) if PARENTS[j] == joint), joint) for joint in range(NUM_JOINTS)]
    start, end = rest[owner], rest[np.array(child)[owner]]
    along = end - start
    share = ((mesh.vertices_V3 - start) * along).sum(1) / np.maximum((along**2).sum(1), 1e-9)
    axes = start + np.clip(share, 0.0, 1.0)[:, None] * along
    # The trunk grows about its own vertical axis: its bones fork.
    trunk = np.isin(owner, (0, 3, 6, 9, 13, 14))
    axes[trunk] = mesh.vertices_V3[trunk] * np.array([0.0, 1.0, 0.0]) + np.array([0.0, 0.0, -0.02])
    groups = mesh.groups_V
    head = np.isin(owner, (12, 15)) & (mesh.vertices_V3[:, 1] > rest[15, 1] - 0.04)
    fleshy = ~head & np.isin(owner, (0, 1, 2, 3, 4, 5, 6, 9, 13, 14, 16, 17, 18, 19)) & np.isin(groups, (0, 1, 2))
    arm = np.full(count, -1.0)
    for _, shoulder, elbow, wrist in _ARM_JOINTS:
        upper, lower = np.abs(rest[elbow, 0] - rest[shoulder, 0]), np.abs(rest[wrist, 0] - rest[elbow, 0])
        reach = np.sign(rest[shoulder, 0]) * (mesh.vertices_V3[:, 0] - rest[shoulder, 0])
        on_arm = np.isin(owner, (shoulder, elbow, wrist)) & (reach > -0.02) & np.isin(groups, (0, 1))
        arm = np.where(on_arm, np.where(reach < upper, reach / upper, 1.0 + (reach - upper) / lower), arm)
    shin = (groups == GROUP_NAMES.index("trousers")) & (mesh.vertices_V3[:, 1] < rest[4, 1] + 0.06)
    return _Shape(mesh, weights, axes, fleshy, head, groups == GROUP_NAMES.index("hair"), arm, shin)


def _colours(person: Person, shape: _Shape) -> np.ndarray:
    """Colour (V, 3) of every vertex."""
    of_group = {
        "skin": person.skin, "shirt": person.top, "trousers": person.bottom, "shoes": person.shoes,
        "hair": person.hair, "eyes": (0.06, 0.05, 0.06),
    }  # fmt: skip
    groups = shape.mesh.groups_V
    colours = np.array([of_group[name] for name in GROUP_NAMES], dtype=np.float32)[groups]
    on_arm = shape.arm_V >= 0
    covered = on_arm & (shape.arm_V < _SLEEVE_ENDS[person.sleeves])
    colours[on_arm] = person.skin
    colours[covered] = person.top
    if person.legs == "shorts":
        colours[shape.shin_V] = person.skin
    shirt = (groups == GROUP_NAMES.index("shirt")) & ~on_arm
    height = shape.mesh.vertices_V3[:, 1]
    if person.pattern == "striped":
        colours[shirt & (np.floor(height / 0.11) % 2 == 0)] = person.accent
    elif person.pattern == "two-tone":
        colours[shirt & (height < 0.26)] = person.accent
    return np.ascontiguousarray(colours)

"""The vocabulary of the eight genres: at least eight moves each, and how each genre carries its body."""

from __future__ import annotations

from macedance.demo.moves import Style
from macedance.demo.moves_club import HOUSE, LATIN, WAACKING
from macedance.demo.moves_funk import LOCKING, POPPING
from macedance.demo.moves_street import BREAKING, HIPHOP, KRUMP

#: Dance style by genre; the keys are those of :data:`macedance.demo.songs.GENRES`.
DANCE_STYLES: dict[str, Style] = {
    "breaking": BREAKING,
    "hiphop": HIPHOP,
    "house": HOUSE,
    "krump": KRUMP,
    "latin": LATIN,
    "locking": LOCKING,
    "popping": POPPING,
    "waacking": WAACKING,
}

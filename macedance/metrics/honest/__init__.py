"""What keeps appearance scores honest: does the person move, hold together, stay the same, and follow the motion."""

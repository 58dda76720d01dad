"""``macedance evaluate``: one module for each thing that is judged, their inputs, and what they write."""

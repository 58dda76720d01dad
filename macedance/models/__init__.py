"""Networks of the motion and appearance experts."""

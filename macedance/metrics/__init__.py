"""Metrics of dances and of videos, as torchmetrics classes over pure functions, and the protocol that they make up."""

"""Pipelines: from_pretrained, save_pretrained, call."""

"""Objectives that any sequential ranker can learn by beside its own; none costs at inference."""

"""Blocks that several rankers share."""

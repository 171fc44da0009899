"""Encoders of behaviour sequences: the backbones that rankers and reasoning stand on."""

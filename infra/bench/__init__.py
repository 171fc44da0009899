"""Reckoner beside its peers: same data, threads and seconds, each in its own environment."""

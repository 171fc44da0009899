"""One ranker per file; `models.registry` finds them all."""

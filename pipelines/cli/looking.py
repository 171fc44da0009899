"""What a person looks up: tables, lists, rankers, staleness, health."""

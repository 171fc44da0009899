"""The steps of a night, one command each."""

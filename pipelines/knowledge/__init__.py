"""What a language model is asked of items, how its answers are checked, and who answers."""

"""One night, step by step; the command line that runs each step."""

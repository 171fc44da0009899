"""A whole night, a range of nights, and the benchmark."""

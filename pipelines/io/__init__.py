"""The only code that touches storage and services."""

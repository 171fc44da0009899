"""Print the data dictionary: `python -m pipelines.tables > docs/tables.md`."""

from pipelines.tables import data_dictionary

print(data_dictionary(), end="")

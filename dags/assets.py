"""Every asset that DAGs exchange: one per table, plus the week's close; all keyed by partition."""

from airflow.sdk import Asset

EVENTS = Asset(name="events", uri="delta://reckoner/events")
ITEMS = Asset(name="items", uri="delta://reckoner/items")
SEQUENCES = Asset(name="sequences", uri="delta://reckoner/sequences")
ITEM_GRAPH = Asset(name="item_graph", uri="delta://reckoner/item_graph")
ITEM_KNOWLEDGE = Asset(name="item_knowledge", uri="delta://reckoner/item_knowledge")
RECOMMENDATIONS = Asset(name="recommendations", uri="delta://reckoner/recommendations")

# Raised by the night that ends a training week, and by no other: its key is the week's last day.
WEEK_OF_SEQUENCES = Asset(name="week_of_sequences", uri="delta://reckoner/sequences/week")

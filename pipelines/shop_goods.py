"""The generated shop's catalogue: what it sells, under which names."""

import random
from dataclasses import dataclass, field

BRANDS = {
    "Fernhall": "made to last outdoors",
    "Ostrava": "plain and affordable",
    "Kestrel & Moor": "finished by hand",
    "Nimbo": "light and colourful",
    "Halvard": "for heavy use",
    "Tessera": "designed to match",
}
ADJECTIVES = ("compact", "classic", "folding", "everyday", "deluxe", "slim", "travel", "studio")
COLOURS = ("moss green", "slate grey", "clay red", "sand", "navy", "off-white")
MATERIALS = ("steel", "oak", "cotton", "recycled plastic", "wool", "aluminium", "glass", "cork")
OCCASIONS = ("weekends away", "small flats", "gifts", "long evenings", "the first day", "guests")

# department -> leaf category -> the noun of its titles and a price in the middle of its range
DEPARTMENTS: dict[str, dict[str, tuple[str, float]]] = {
    "Outdoor": {
        "Tents": ("tent", 140.0),
        "Sleeping bags": ("sleeping bag", 80.0),
        "Camping stoves": ("camping stove", 45.0),
        "Backpacks": ("backpack", 70.0),
    },
    "Kitchen": {
        "Coffee grinders": ("coffee grinder", 60.0),
        "Kettles": ("kettle", 40.0),
        "Knives": ("kitchen knife", 35.0),
        "Baking tins": ("baking tin", 15.0),
    },
    "Home office": {
        "Desks": ("desk", 210.0),
        "Desk lamps": ("desk lamp", 38.0),
        "Keyboards": ("keyboard", 75.0),
        "Monitor stands": ("monitor stand", 42.0),
    },
    "Garden": {
        "Planters": ("planter", 25.0),
        "Secateurs": ("secateurs", 22.0),
        "Watering cans": ("watering can", 18.0),
        "Bird feeders": ("bird feeder", 16.0),
    },
    "Cycling": {
        "Bike lights": ("bike light", 28.0),
        "Helmets": ("helmet", 55.0),
        "Panniers": ("pannier", 65.0),
        "Repair kits": ("repair kit", 20.0),
    },
    "Children": {
        "Building blocks": ("set of building blocks", 30.0),
        "Picture books": ("picture book", 12.0),
        "Night lights": ("night light", 19.0),
        "Craft boxes": ("craft box", 24.0),
    },
    "Music": {
        "Headphones": ("pair of headphones", 90.0),
        "Speakers": ("speaker", 110.0),
        "Record players": ("record player", 180.0),
        "Cables": ("audio cable", 11.0),
    },
    "Fitness": {
        "Yoga mats": ("yoga mat", 32.0),
        "Dumbbells": ("pair of dumbbells", 48.0),
        "Running belts": ("running belt", 21.0),
        "Bottles": ("water bottle", 17.0),
    },
    "Bedroom": {
        "Duvets": ("duvet", 85.0),
        "Pillows": ("pillow", 34.0),
        "Bedside tables": ("bedside table", 95.0),
        "Alarm clocks": ("alarm clock", 26.0),
    },
}
LEAVES = [(department, leaf) for department, group in DEPARTMENTS.items() for leaf in group]


@dataclass
class Good:
    """One item on sale.

    Attributes:
        leaf: place of its category in `LEAVES`.
        variant: its place among the items of the same category and brand.
        since: the day (counted from the first) on which it joins the catalogue.
    """

    item_id: str
    title: str
    description: str
    leaf: int
    brand: str
    variant: int
    price: float
    colour: str
    material: str
    since: int = 0
    available: bool = True

    def record(self) -> dict[str, object]:
        """The item as the shop delivers it."""
        return {
            "item_id": self.item_id,
            "title": self.title,
            "description": self.description,
            "category": list(LEAVES[self.leaf]),
            "brand": self.brand,
            "price": self.price,
            "available": self.available,
            "attributes": {"colour": self.colour, "material": self.material},
        }


@dataclass
class Catalogue:
    """All goods, and those of each category and brand."""

    goods: list[Good]
    shelves: dict[tuple[int, str], list[Good]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Sort the goods onto shelves."""
        for good in self.goods:
            self.shelves.setdefault((good.leaf, good.brand), []).append(good)


def make_catalogue(dice: random.Random, size: int, newcomers: int, last_day: int) -> Catalogue:
    """Invent `size` goods, the last `newcomers` of which arrive on the last two days."""
    brands = list(BRANDS)
    shelves = [(leaf, brand) for leaf in range(len(LEAVES)) for brand in brands]
    dice.shuffle(shelves)
    filled = dict.fromkeys(shelves, 0)
    goods = []
    for number in range(size):
        leaf, brand = shelves[number % len(shelves)]
        since = 0 if number < size - newcomers else last_day - number % 2
        goods.append(_good(dice, number, leaf, brand, filled[leaf, brand], since))
        filled[leaf, brand] += 1
    return Catalogue(goods)


def _good(
    dice: random.Random, number: int, leaf: int, brand: str, variant: int, since: int
) -> Good:
    department, category = LEAVES[leaf]
    noun, middle = DEPARTMENTS[department][category]
    adjective = ADJECTIVES[(leaf + variant) % len(ADJECTIVES)]
    colour, material = dice.choice(COLOURS), dice.choice(MATERIALS)
    return Good(
        item_id=f"P{number + 1001}",
        title=f"{brand} {adjective} {noun}, {colour}",
        description=(
            f"The {adjective} {noun} in {material}, {BRANDS[brand]}. "
            f"Good for {dice.choice(OCCASIONS)}."
        ),
        leaf=leaf,
        brand=brand,
        variant=variant,
        price=round(middle * dice.lognormvariate(0, 0.35), 2),
        colour=colour,
        material=material,
        since=since,
    )

"""Decide which raw rows a mapping's rules skip or refuse."""

import pyarrow as pa
import pyarrow.compute as pc

from pipelines.ingest.mapping import Rule
from pipelines.ingest.typed import Mask, plain, to_number


def rows_that_fit(rule: Rule, column: pa.Array) -> Mask:
    """Mark the cells that meet a rule's condition, [num_rows]; an unreadable number meets none."""
    if rule.empty is not None:
        fits = pc.equal(plain(column).is_null(), rule.empty)
    elif rule.matches is not None:
        fits = pc.match_substring_regex(plain(column), rule.matches)
    elif rule.differs_from is not None:
        fits = pc.invert(pc.match_substring_regex(plain(column), rule.differs_from))
    elif isinstance(rule.equals, str):
        fits = pc.equal(plain(column), rule.equals)
    else:
        fits = _compare(rule, to_number(column).values)
    mask: Mask = pc.fill_null(fits, False).to_numpy(zero_copy_only=False)
    return mask


def _compare(rule: Rule, numbers: pa.Array) -> pa.Array:
    if rule.equals is not None:
        return pc.equal(numbers, rule.equals)
    if rule.below is not None:
        return pc.less(numbers, rule.below)
    if rule.at_most is not None:
        return pc.less_equal(numbers, rule.at_most)
    return pc.greater(numbers, rule.above)

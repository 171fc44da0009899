"""Sequential rankers in plain torch: batches, rankers, fitting, exact top-K and evaluation."""

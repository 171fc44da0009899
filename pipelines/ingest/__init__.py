"""Turn a delivery in its owner's own layout into rows of the contract, or say why not."""

"""Networks that are really smaller: how channels, units and heads are cut, and methods that choose them."""

"""What a pruning is worth: controls, small dense networks, costs, and the tables that say so."""

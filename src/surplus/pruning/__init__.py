"""Which weights matter: scores, masks, controls, and networks that are really smaller."""

"""Feed ranking: which posts to show, in which order, so that people come back."""

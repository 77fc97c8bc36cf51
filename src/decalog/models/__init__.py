"""Models that more than one system uses, behind one contract: fit and predict, saved without pickle."""

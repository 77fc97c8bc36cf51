"""Demand: from what was sold to what is ordered."""

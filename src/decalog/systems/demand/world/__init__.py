"""The parts of demand's world."""

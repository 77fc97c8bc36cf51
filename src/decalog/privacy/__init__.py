"""What people may ask for: to be erased, told, corrected, restricted, left out of automated decisions, and heard."""

"""What users of decalog test their own systems with: simulated worlds, laws every system must pass, oracles."""

"""The laws of conformance, one file each: what every system must do, and sabotages that each law must notice."""

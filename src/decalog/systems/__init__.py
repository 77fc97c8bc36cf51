"""The ten decision systems; each is one package with the same eight rooms."""

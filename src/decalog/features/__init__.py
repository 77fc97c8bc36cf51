"""Features: declared once (`definition`), computed by one kernel online and offline, held to a reference and to SQL."""

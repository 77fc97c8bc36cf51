"""Statistics that close the loop: from arrays to values with intervals; nothing here knows of systems, logs or time."""

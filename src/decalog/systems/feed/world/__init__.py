"""What the feed's world is made of: its settings, its people, its posts, how readers behave, and who ranks for them.

All of it is invented: results on it are simulated results.
"""

"""The control room: one web application, in a process of its own, for people.

It reads the homes' logs beside their writers. Lists and time series come from an index of its own (`index.py`), heavy
figures from a process in the background (`measuring.py`); it acts through the systems' servers with the caller's token.
"""

"""Readiness: the production-ready checklist, measured on what runs, each check with a fault that proves it can fail."""

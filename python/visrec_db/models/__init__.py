"""Models on disk: fetched, checked, compiled."""

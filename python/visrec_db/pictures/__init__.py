"""From a path or bytes to a checked RGB picture."""

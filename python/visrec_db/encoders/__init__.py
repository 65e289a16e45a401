"""From a picture or a text to a unit vector."""

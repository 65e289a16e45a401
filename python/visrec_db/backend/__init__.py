"""What runs inside PostgreSQL: the standard library only, so that a session starts at once."""

"""The encoder process, and the protocol by which sessions reach it."""

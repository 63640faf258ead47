"""The steps by which a database of keys and usage came to its present form, oldest first."""

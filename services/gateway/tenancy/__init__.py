"""Who may ask, how much, and what they used: API keys, limits and the usage table."""

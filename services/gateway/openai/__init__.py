"""The wire types of the OpenAI HTTP API, as this gateway reads and writes them."""

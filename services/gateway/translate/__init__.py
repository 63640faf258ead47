"""Pure functions between OpenAI JSON and the protobuf contracts."""

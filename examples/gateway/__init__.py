"""A chat gateway in front of a model: it remembers conversations, whatever happens to it."""

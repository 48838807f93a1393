"""The crash lab: what crashes may leave, and what Holdfast makes of it."""

"""A seeded simulation: several instances in virtual time."""

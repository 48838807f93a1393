"""A document that a person approves before it goes to a service outside; nothing happens twice."""

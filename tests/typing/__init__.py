"""Programs of users that must, and mistakes that must not, pass the type checker."""

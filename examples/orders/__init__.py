"""A shop that takes orders against a stock, and never sells what it does not have."""

"""A policy broker: rules that remember what each session has seen, whatever happens to it."""

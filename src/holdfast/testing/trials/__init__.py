"""Trials of an application: what the crash lab for users is made of."""

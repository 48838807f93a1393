"""Disks that fail: power cuts, errors, damage, and how each is made."""

"""Processes that die: kills, storms, races."""

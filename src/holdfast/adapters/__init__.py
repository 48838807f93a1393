"""Engines of other people, kept by Holdfast; each imported only when it is asked for."""

"""Engines: working memories of foreign programs that survive their process."""

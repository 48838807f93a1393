"""Services: what users hold in their hands. Composes units; never sees SQL."""

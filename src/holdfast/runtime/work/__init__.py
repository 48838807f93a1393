"""Work in flight: the ledger of it, and what a restart does with it."""

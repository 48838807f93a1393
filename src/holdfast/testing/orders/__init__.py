"""Every order: of the steps of a protocol, of the SQL of several instances."""

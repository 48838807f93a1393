"""Sessions: state with tiers, identities, and the flusher that makes it durable."""

"""The local store: its contract, and what is its own."""

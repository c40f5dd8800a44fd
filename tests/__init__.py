"""What the gateway promises, checked with real clients and real servers on loopback."""

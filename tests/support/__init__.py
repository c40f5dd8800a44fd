"""The real peers that tests talk to: how to start them, ask them, and end them."""

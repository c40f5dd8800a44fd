"""One suite for each protocol; every implementation runs it."""

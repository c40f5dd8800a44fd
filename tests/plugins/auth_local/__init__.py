"""The directory, recognition and standing."""

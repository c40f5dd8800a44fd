"""What goes wrong: killed processes, damaged files, vanished clients."""

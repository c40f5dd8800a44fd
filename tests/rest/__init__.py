"""GitLab's REST API as the gateway speaks it: its clients, its rules, its bad input, its document."""

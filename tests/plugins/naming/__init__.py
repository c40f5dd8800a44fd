"""Names and their projects."""

"""Command-line tools around the application; none of them is imported by it."""

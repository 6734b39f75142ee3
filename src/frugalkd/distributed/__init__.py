"""What several ranks exchange."""

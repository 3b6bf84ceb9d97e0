"""Who holds which connection, for what, and how it comes back."""

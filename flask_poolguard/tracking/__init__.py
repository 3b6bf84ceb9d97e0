"""Who has which connection, for which scope, and how it comes back."""

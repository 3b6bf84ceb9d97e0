"""Small apps that tests run in processes of their own."""

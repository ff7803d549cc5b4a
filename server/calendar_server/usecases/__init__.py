"""What the service does, a file per noun. Transactions begin and end here."""

"""What a finished run leaves: numbers and the page."""

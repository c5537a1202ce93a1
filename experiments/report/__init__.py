"""Leave what a finished run leaves: its result, its exhibits and the page."""

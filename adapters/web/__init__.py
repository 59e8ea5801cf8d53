"""The local web server: health and metrics; pages add their routes to the same application."""

"""Showing a trace: pictures, the page in one file, and the page from a live server."""

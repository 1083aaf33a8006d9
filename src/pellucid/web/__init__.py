"""What everything that answers a browser needs: bounded connections, who may ask, what a page may do, its files."""

"""Plain implementations to hold the package against."""

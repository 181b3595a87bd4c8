"""From score files to tables: medians, published numbers, statistics."""

"""The steps of the Snakefile and their command line."""

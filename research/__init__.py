"""The trials on the way from the paper's separator to this project's, on songs that are in no table.

`python -m research` trains the sets of priors that it compares, separates validation songs with them, and writes one
CSV file a topic below results/research/, which `notebooks/14_beyond_the_paper.ipynb` shows.
"""

"""Songs of every data set, and the crops, pieces and excerpts taken from them."""

"""Songs of every data set, and what training and listening take from them."""

"""`macedance demo [appearance]`: the whole job of an expert at a small size, from nothing to what one can look at."""

"""Does a running server give the vectors of its model's folder, and if not, why (`llave verify MODEL --url`)."""

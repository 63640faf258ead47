"""The four services of the mesh; each is a stranger to the others."""

"""Measurements, one runnable each; they drive the mesh from outside and nothing imports them."""

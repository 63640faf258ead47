"""One file per step; none is changed once it was released."""

"""Tables of any size, converted block by block and kept on disk."""

"""C declarations, one file per C header, and what compiles them for cffi."""

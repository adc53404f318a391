"""Make a built model smaller from outside: modules that hold quantised weights in place of float ones."""

"""Tools that are run by hand: each checks the package and reports what it found."""

"""Names that settings of the language model have in common."""

#: The language model that is read by default: 22M parameters, carried by a package.
DEFAULT_LLM = "all-MiniLM-L6-v2"

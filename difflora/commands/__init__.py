"""The verbs: one dataclass each, its fields the flags, `run()` the call into the library and its rendering."""

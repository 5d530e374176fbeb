"""RecBole 1.2.1 as it must be: shims for current libraries, hooks by which it finds the plugin, and nothing else touches its internals.

In: RecBole's modules as they are installed. Out: the same modules, repaired and hooked, when `recbole_llm` is imported.
"""

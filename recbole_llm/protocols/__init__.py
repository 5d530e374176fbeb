"""What a run is measured on: one module per protocol, which `registry.protocol(name)` gives an object of.

In: a merged configuration, then a model and its trainer. Out: the settings that the protocol fixes for every model, loaders, what the
trainer judges by, test rows with their digest, and the words of tables. A new protocol is a module with a :class:`~recbole_llm.protocols.base.Protocol`
and a line by `registry.register_protocol`.
"""

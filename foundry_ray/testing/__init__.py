"""The shipped test kit: fakes with verbs, fault injection, and the contract classes that implementations must pass.

Product code never imports it; a plugin's own tests may.
"""
